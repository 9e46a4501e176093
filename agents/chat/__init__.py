"""Chat formats. Each public module here is one model family: its class is registered in `FORMATS`
(agents/chat_format.py) by the module's name."""
