"""Use cases. Faces call these; these call ports."""
