"""The sections of the settings: name, type, default and meaning of each key, and whether a reload changes it.

Owns: the one place where a key is declared, with `setting(default, meaning, …)`; unknown keys, the names in
the environment, the reference in `etc/rekeyd.yaml` and what a reload may change all follow from it. (`judge`
is declared in `judgement`.) CONTRACT: these names, defaults and meanings are promised to users. Must not
know: where values come from, or how keys bear on one another (`rules`).
"""

from pathlib import Path

from rekeyd.settings import fields
from rekeyd.settings.section import Section, setting


class Service(Section):
    host: fields.Host = setting("0.0.0.0", "The address to listen on.", qdrant=True)  # noqa: S104 - Qdrant's default
    http_port: fields.Port = setting(
        6333, "The port for HTTP(S). 0 takes any free one; `daemon.started` tells which.", qdrant=True
    )
    grpc_port: fields.OptionalPort = setting(
        None, "The port for gRPC. Without `upstream.grpc` nothing listens there.", qdrant=True
    )
    single_port: fields.Switch = setting(
        False,
        "Serve gRPC on `http_port` as well: TLS clients say which they speak (ALPN). Needs TLS and "
        "`upstream.grpc`.",
    )
    enable_tls: fields.Switch = setting(
        False, "Speak TLS on every port, with `tls.cert` and `tls.key`.", qdrant=True
    )
    api_key: fields.Secret = setting(
        None, "A key that may do everything. Empty is unset.", reloadable=True, qdrant=True
    )
    alt_api_key: fields.Secret = setting(
        None, "A second one, so that keys can be changed without a gap.", reloadable=True, qdrant=True
    )
    read_only_api_key: fields.Secret = setting(
        None, "A key that may read, and nothing else.", reloadable=True, qdrant=True
    )
    jwt_rbac: fields.Switch = setting(
        False,
        "Accept Qdrant's tokens (JWT, HS256), signed with `service.api_key` or `service.alt_api_key`.",
        reloadable=True,
        qdrant=True,
    )
    insecure: fields.Switch = setting(
        False, "Start with no API key at all: whoever reaches the port may do everything."
    )
    verify_https_client_certificate: fields.ClientCertificates = setting(
        False,
        "Ask clients for a certificate that `tls.ca_cert` vouches for. `optional` takes clients without one.",
        reloadable=True,
        qdrant=True,
    )
    max_request_size_mb: fields.Megabytes = setting(
        32, "The largest body of a request, in MiB. More is answered 413.", reloadable=True, qdrant=True
    )
    enable_cors: fields.Switch = setting(
        False,
        "Answer the preflight requests of browsers without a key. Qdrant's own default is true.",
        reloadable=True,
        qdrant=True,
    )
    trusted_proxies: fields.Networks = setting(
        (), "Networks of proxies in front, whose `X-Forwarded-*` is believed.", reloadable=True
    )
    drain_timeout: fields.Grace = setting(
        30, "Seconds that running requests get to finish when the daemon stops."
    )
    workers: fields.Workers = setting(1, "How many processes serve. 0 is one per core.")
    handshake_timeout: fields.Timeout = setting(10, "Seconds that a TLS handshake may take.")
    header_timeout: fields.Timeout = setting(
        15,
        "Seconds for the head of a request, counted from the connection for the first request and from "
        "its first byte for each one after that.",
    )
    idle_timeout: fields.Timeout = setting(
        75, "Seconds that a connection may stay open without a request, between two of them."
    )
    stall_timeout: fields.Timeout = setting(
        60,
        "Seconds between two pieces of a client's body, or while a client does not read its answer.",
        reloadable=True,
    )
    max_header_size_kb: fields.Kilobytes = setting(32, "The largest head of a request, whole, in KiB.")
    max_connections: fields.ConnectionCount = setting(10_000, "How many clients may be connected at once.")
    max_streams: fields.StreamCount = setting(
        256, "How many gRPC calls may run at once on one connection.", reloadable=True
    )
    max_stream_resets: fields.ResetCount = setting(
        1000,
        "How many gRPC calls of one connection may be cancelled or denied before it is closed; a tenth of "
        "them may be again with each second.",
        reloadable=True,
    )


class Tls(Section):
    cert: fields.FilePath = setting(
        None, "The certificate in PEM, its chain after it.", reloadable=True, qdrant=True
    )
    key: fields.FilePath = setting(
        None, "The private key of `tls.cert` in PEM.", reloadable=True, qdrant=True
    )
    ca_cert: fields.FilePath = setting(
        None,
        "The authorities that vouch for client certificates, and for those of peers, in PEM.",
        reloadable=True,
        qdrant=True,
    )
    crl: fields.FilePath = setting(
        None,
        "Revoked client certificates: the CRLs of the authorities in `tls.ca_cert`, in PEM (one or more) "
        "or DER. "
        "With it each client's certificate must be covered by a CRL of its issuer.",
        reloadable=True,
    )
    key_passphrase_file: fields.FilePath = setting(
        None,
        "A file with the passphrase of an encrypted `tls.key`, and of the keys below that name none of "
        "their own.",
        reloadable=True,
    )
    certificates: fields.CertificatePairs = setting(
        (),
        "More certificates, chosen by the name that the client asks for (SNI): a list of `{cert: FILE, key: "
        "FILE}`, with `key_passphrase_file: FILE` where needed. Without `tls.cert` the first is the default.",
        reloadable=True,
    )
    certificate_dir: fields.FolderPath = setting(
        None,
        "A folder whose pairs are all served: `NAME.crt` (or `.pem`, `.cert`) with `NAME.key`, and "
        "sub-folders "
        "with `tls.crt` and `tls.key` or `fullchain.pem` and `privkey.pem`.",
        reloadable=True,
    )
    strict_sni: fields.Switch = setting(
        False,
        "Refuse clients that ask for a name that no certificate has, or for none. false: they get the "
        "default one.",
        reloadable=True,
    )
    allowed_clients: fields.ClientPatterns = setting(
        (),
        "Client certificates that get in, of those that are verified: `cn:NAME`, `dns:NAME` (`dns:*.NAME`), "
        "`uri:URI` (`uri:PREFIX/*`), `email:ADDRESS`, `spki:sha256/BASE64`. One match is enough. []: all.",
        reloadable=True,
    )
    cert_ttl: fields.Interval = setting(
        3600, "Seconds between two looks at the files, besides `tls.watch`. 0 or null: no timer.", qdrant=True
    )
    watch: fields.Switch = setting(True, "Watch the files and reload when they change.")
    settle: fields.Grace = setting(
        10,
        "Seconds for which files that don't go together (a new certificate beside the old key) are borne "
        "quietly.",
        reloadable=True,
    )
    start_wait: fields.Grace = setting(
        30, "Seconds for which such files are read again at start before the daemon gives up."
    )
    expiry_warnings: fields.Days = setting(
        (30, 14, 7, 3, 1),
        "Days before its expiry at which a certificate is warned of (`cert.expiring`).",
        reloadable=True,
    )
    min_version: fields.TlsVersion = setting(
        "1.2", 'The oldest TLS to speak: "1.2" or "1.3".', reloadable=True
    )
    ciphers: fields.Ciphers = setting(
        None,
        "Cipher suites for TLS 1.2, as an OpenSSL cipher string. null: those with forward secrecy and AEAD.",
        reloadable=True,
    )


class Connections(Section):
    after_rotation: fields.AfterRotation = setting(
        "keep",
        "What becomes of connections made before a reload: `keep`, or `drain`: they end after the "
        "response at hand.",
        reloadable=True,
    )
    drain: fields.Grace = setting(
        30, "Seconds in which they do; what is left then (streams, WebSockets) is ended.", reloadable=True
    )
    max_age: fields.Interval = setting(
        None,
        "Seconds after which a connection ends after the response at hand, give or take a tenth. 0 or "
        "null: never.",
        reloadable=True,
    )


class Upstream(Section):
    http: fields.HttpAddress = setting(
        None,
        "The service to protect: `http://host:port`, `https://host:port`, `unix:/path`, "
        "`app:module:factory` (an aiohttp application in this process) or `demo`. It must be set.",
        reloadable=True,
    )
    grpc: fields.GrpcAddress = setting(
        None,
        "Its gRPC side: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`.",
        reloadable=True,
    )
    api_key: fields.Secret = setting(
        None, "Sent to the upstream in place of the client's key, which never gets there.", reloadable=True
    )
    connect_timeout: fields.Timeout = setting(5, "Seconds to connect to the upstream.", reloadable=True)
    read_timeout: fields.Timeout = setting(
        60, "Seconds between two pieces of an answer, so that streams may last.", reloadable=True
    )
    identity_headers: fields.Switch = setting(
        False,
        "Tell the upstream who asks: `X-Rekeyd-Key-Id`, `X-Rekeyd-Right`, `X-Rekeyd-Tls`, `X-Rekeyd-Cipher`, "
        "`X-Rekeyd-Client-Cert`, and of tokens `X-Rekeyd-Subject`, percent-encoded. Such headers of clients "
        "never get there.",
        reloadable=True,
    )
    ca_cert: fields.FilePath = setting(
        None,
        "The authorities that vouch for an `https` upstream, in PEM. null: the system's.",
        reloadable=True,
    )


class Access(Section):
    policy: fields.PolicyName = setting(
        "qdrant",
        "What a request needs: `qdrant`, `chroma`, `inference` (Ollama, and servers in the style of "
        "OpenAI's), `http` (GET, HEAD and OPTIONS read, the rest manages) or the path of a policy file.",
        reloadable=True,
    )
    public: fields.RequestPaths = setting(
        (), "Exact paths that are open without a key, added to those of the policy.", reloadable=True
    )
    keys_file: fields.FilePath = setting(
        None,
        "The key file: named keys as digests, with rights and limits. YAML, or JSON where its name ends in "
        "`.json`. `rekeyd keys` edits it.",
        reloadable=True,
    )
    pepper_file: fields.FilePath = setting(
        None,
        "A file with a secret of at least 32 bytes, without which the key file's `hmac-sha256` digests say "
        "nothing.",
        reloadable=True,
    )
    jwks_file: fields.FilePath = setting(
        None,
        "The public keys of an issuer of tokens (JWT), as a JSON Web Key Set: RS256, ES256, EdDSA. Its "
        "tokens need `iss`, `aud`, `exp` and, in Qdrant's form, `access`.",
        reloadable=True,
    )
    jwt_issuer: fields.ClaimText = setting(
        None, "What those tokens must have as `iss`. Needed with `access.jwks_file`.", reloadable=True
    )
    jwt_audience: fields.ClaimText = setting(
        None, "What must be among their `aud`. Needed with `access.jwks_file`.", reloadable=True
    )
    jwt_leeway: fields.Leeway = setting(
        30, "Seconds by which the clocks of whoever makes tokens, Qdrant's too, may differ.", reloadable=True
    )
    failures_per_minute: fields.Attempts = setting(
        60,
        "How often a network (an IPv4 address, an IPv6 /64) may present a key or token that is none. More is "
        "answered 429. A key that is known is never refused for it.",
        reloadable=True,
    )


class Admin(Section):
    socket: fields.SocketPath = setting(
        Path("/run/rekeyd/admin.sock"),
        "The unix socket of `rekeyd reload` and `rekeyd status`. null: off. The default is in systemd's "
        "`$RUNTIME_DIRECTORY` where that is set, and off, with a warning, where its folder can't be written.",
    )

    @property
    def socket_is_default(self) -> bool:
        """Nobody asked for this path, so that doing without it is a warning and not an error."""
        return "socket" not in self.model_fields_set


class State(Section):
    directory: fields.FolderPath = setting(
        Path("/var/lib/rekeyd"),
        "The folder for what outlives a restart: when each key was used. null: nothing is kept. The default "
        "is systemd's `$STATE_DIRECTORY` where that is set, and off, with a warning, where it can't be "
        "written.",
    )

    @property
    def directory_is_default(self) -> bool:
        """Nobody asked for this folder, so that doing without it is a warning and not an error."""
        return "directory" not in self.model_fields_set


class Metrics(Section):
    port: fields.OptionalPort = setting(None, "A port for Prometheus: plain HTTP, and open to all.")


class Logging(Section):
    format: fields.LogFormat = setting(
        "auto",
        "`json`, `console`, `journal` (systemd's, with every field), or `auto`: console on a terminal, the "
        "journal where systemd connected standard output to it, else JSON.",
    )
    level: fields.LogLevel = setting("info", "`debug`, `info`, `warning` or `error`.", reloadable=True)
    decisions: fields.Decisions = setting(
        "all", "`all`, or `denied`, which leaves allowed decisions out.", reloadable=True
    )
    buffer_mb: fields.BufferMegabytes = setting(
        8, "MiB of lines kept in memory while whoever reads the log is slow."
    )
    audit: fields.WrittenPath = setting(
        None,
        "A file to which every decision is written as well, one JSON object a line, whatever `level` and "
        "`decisions` say. It may be rotated away at any time: see etc/logrotate.conf. null: none.",
    )


class P2p(Section):
    enable_tls: fields.Switch = setting(
        False,
        "Mutual TLS between peers, with `tls.cert` and `tls.ca_cert`: what comes in at `port` goes on to "
        "`upstream`, and what the service sends to `peers` leaves through here. Never in plaintext.",
        qdrant=True,
    )
    port: fields.Port = setting(6335, "The port for peers. 0 takes any free one.", qdrant=True)
    host: fields.OptionalHost = setting(
        None, "The address to listen on for peers. null: that of `service.host`."
    )
    upstream: fields.OptionalEndpoint = setting(
        None,
        "The plaintext cluster port of the service: `host:port` or `unix:/path`. `enable_tls` needs it.",
        reloadable=True,
    )
    allowed_peers: fields.ClientPatterns = setting(
        (),
        "Certificates of peers, of those that `tls.ca_cert` vouches for, in the forms of "
        "`tls.allowed_clients`; they hold for both directions. []: the peers below, and nobody else.",
        reloadable=True,
    )
    peers: fields.Peers = setting(
        (),
        "Where the service's own connections to its peers come in, and where they go: a list of `{listen: "
        "127.0.0.1:16336, connect: node-2.example.org:6335}`. Who answers there must have that name in its "
        "certificate, or be what `expect:` says.",
    )
    connect_timeout: fields.Timeout = setting(
        5,
        "Seconds for which a connection is held until its other end is reached, which is tried with growing "
        "pauses; then it is reset.",
        reloadable=True,
    )
    idle_timeout: fields.Interval = setting(
        3600,
        "Seconds without a byte in either direction after which a tunnel ends. 0 or null: never.",
        reloadable=True,
    )


class Cluster(Section):
    p2p: P2p = P2p()
