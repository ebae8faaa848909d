"""Records of what was measured, the published figures, and the tables made from both. Imports no torch."""
