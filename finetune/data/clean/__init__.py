"""`finetune data clean`: rows go through named steps; what is dropped is counted, and kept with its reason.

settings → items → steps → output and rejects. A file of `normalise`, `roles`, `filters` or `personal` does one thing to
one row and `copies` and `meaning` compare all rows; they know nothing of files or counts.
"""
