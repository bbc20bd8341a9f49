"""The pages of the console, one module for each subject; `registry.py` lists them all."""
