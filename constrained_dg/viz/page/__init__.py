"""A page for the browser that replays the passes of samplers: recorded, or fed while they run."""
