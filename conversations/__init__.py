"""Sessions, messages, runs and what they cost: the engine, its journal, and the chat pages."""
