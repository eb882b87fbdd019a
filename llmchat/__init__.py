"""The project package: settings, routes and the ASGI application. It alone knows all three apps."""
