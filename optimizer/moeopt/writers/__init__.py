"""From a solution to the files that start its run: one module a framework, one a launcher.

`moeopt.writers.write.launch` is the whole of it; nothing is executed and nothing outside the output folder is touched.
"""
