"""What every request passes, outside of FastAPI: plain ASGI, nothing needless on the online path."""
