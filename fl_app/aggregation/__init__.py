"""What strategies build on: means, inner strategies and their state, sampling."""
