"""What is drawn on terminals, for the command and its benchmark."""
