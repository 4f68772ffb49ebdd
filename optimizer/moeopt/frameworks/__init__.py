"""What a training framework accepts: one file a framework."""
