"""`finetune evaluate`: the held-out comparison of what a run made."""
