"""What a running proxy says of itself: collected, judged, shown."""
