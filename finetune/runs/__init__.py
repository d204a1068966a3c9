"""`finetune runs`: what was run, how it went, how runs compare, and whether one is whole. From files alone."""
