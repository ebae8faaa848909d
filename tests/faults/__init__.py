"""What may be wrong with files, as tables: every refusal and every toleration is a row."""
