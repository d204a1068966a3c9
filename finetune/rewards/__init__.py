"""What answers are paid for in training: rewards by name or of the user's own, tried before they are trusted."""
