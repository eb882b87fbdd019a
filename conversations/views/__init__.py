"""The addresses of the chat: each view authorises, calls one verb, and answers."""
