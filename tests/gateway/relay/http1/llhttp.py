"""llhttp's reading of a message: the independent oracle of what we accept."""

import httptools


class Reading:
    """What llhttp made of the bytes it was fed."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.target = b""
        self.complete = 0
        self.keep_alive = False
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


class Request(Reading):
    """A request as llhttp reads it. Raises httptools.HttpParserError when it refuses."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)


class Answer(Reading):
    """An answer as llhttp reads it."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(data)
        self.status = self.parser.get_status_code()
