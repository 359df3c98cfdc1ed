"""A server over HTTP for one trained model: OpenAI's endpoints for texts, and one for puzzles."""
