"""What of the handshakes of a listener is compiled for the native engine, from the files above."""
