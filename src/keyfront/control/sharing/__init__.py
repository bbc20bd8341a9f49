"""Shared credentials: what edges report about the use of signed URLs and cookies, judged and stored."""
