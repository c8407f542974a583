"""A webhook and a mail server on loopback that keep what they are told, for tests."""

import base64
import datetime
import http.server
import ipaddress
import json
import socketserver
import ssl
import threading
import time
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default


class Hook:
    """What a webhook was told, and the status that it answers."""

    def __init__(self):
        self.told: list[dict] = []
        self.paths: list[str] = []
        self.status: int = 200
        self.address = ""


@contextmanager
def webhook():
    """A running webhook on a port of its own."""
    hook = Hook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.paths.append(self.path)
            if hook.status == 200:
                hook.told.append(body)
            self.send_response(hook.status)
            if hook.status == 302:
                self.send_header("Location", hook.address + "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook.address = f"http://127.0.0.1:{server.server_port}/services/T0/Brook7secret"
        with _served(server):
            yield hook


class Post(socketserver.ThreadingTCPServer):
    """A mail server that keeps who logged in and the messages it took."""

    daemon_threads = True

    def __init__(self, certificate, ssl_at_once, password):
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.certificate, self.ssl_at_once, self.password = certificate, ssl_at_once, password
        self.mails: list = []
        self.logins: list[str] = []
        # The first word of the answer that it never ends, a letter at a time.
        self.dawdles_at: str | None = None
        self.port = self.server_address[1]

    def handle_error(self, *_):  # a client that does not trust the certificate hangs up
        pass


class _Conversation(socketserver.StreamRequestHandler):
    server: Post

    def handle(self):
        if self.server.ssl_at_once:
            self._encrypt()
        self._say("220 hello")
        while line := self.rfile.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            getattr(self, f"on_{verb.lower()}", self._ok)(rest)

    def finish(self):
        super().finish()
        self.request.close()

    def on_ehlo(self, _):
        offers_tls = self.server.certificate and not self.server.ssl_at_once
        self._say("250-hello", "250-STARTTLS" if offers_tls else "250-8BITMIME", "250 AUTH PLAIN")

    def on_starttls(self, _):
        self._say("220 go on")
        self._encrypt()

    def on_auth(self, rest):
        user, given = base64.b64decode(rest.split()[1]).decode().split("\0")[1:]
        self.server.logins.append(user)
        known = given == self.server.password
        self._say("235 welcome" if known else f"535 {given} is not your password")

    def on_data(self, _):
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        self.server.mails.append(message_from_bytes(b"".join(lines), policy=default))
        self._say("250 taken")

    def _ok(self, _):
        self._say("250 ok")

    def _say(self, *lines):
        while lines[0].split()[0] == self.server.dawdles_at:
            self.wfile.write(b"2")
            time.sleep(0.05)
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def _encrypt(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.certificate)
        self.request = context.wrap_socket(
            self.request, server_side=True, do_handshake_on_connect=False
        )
        self.setup()
        self.request.do_handshake()


@contextmanager
def mail_server(certificate=None, *, ssl_at_once=False, password=None):
    """A running mail server; with a certificate it offers STARTTLS, or speaks TLS at once."""
    with Post(certificate, ssl_at_once, password) as server, _served(server):
        yield server


def write_certificate(path) -> None:
    """A certificate of this machine, signed by itself, with its key, as one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )  # fmt: skip
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))


@contextmanager
def _served(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
