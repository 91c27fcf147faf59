"""What a person sees of a run: progress, memory, the overview picture, the summary."""
