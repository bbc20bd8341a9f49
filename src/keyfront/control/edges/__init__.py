"""Edges on other machines: who is enrolled (in the store), and the thread that serves them."""
