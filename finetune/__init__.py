"""finetune: tune an open-weight language model on your examples, and prove that it helped."""

__version__ = "0.1.0"
