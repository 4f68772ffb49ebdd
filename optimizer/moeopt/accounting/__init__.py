"""What a layout costs: parameters, bytes and nanoseconds, as exact integers."""
