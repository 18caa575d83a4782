"""The HTTP face: parse, call one service coroutine, encode."""
