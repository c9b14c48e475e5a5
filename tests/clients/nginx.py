"""nginx as the shop's backends: catalogue, cart (mutual TLS), legacy (TLS) and the key set."""

import secrets
import socket
import subprocess

DOWNLOAD_BYTES = 100 << 20

CONFIG = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    types {{ text/css css; text/html html; }}
    default_type text/html;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    ssl_protocols TLSv1.3;

    server {{ # keys
        listen 127.0.0.1:{keys};
        location = /jwks {{ default_type application/json; alias {folder}/www/jwks.json; }}
    }}
    server {{ # cart: a workload of the mesh
        listen 127.0.0.1:{cart} ssl;
        ssl_certificate {certs}/backend/cert-chain.pem;
        ssl_certificate_key {certs}/backend/key.pem;
        ssl_client_certificate {certs}/backend/root-cert.pem;
        ssl_verify_client on;
        return 200 "cart verify=$ssl_client_verify sni=$ssl_server_name user=$http_x_user\\n";
    }}
    server {{ # legacy: TLS of its own
        listen 127.0.0.1:{legacy} ssl http2;
        ssl_certificate {certs}/legacy/tls.crt;
        ssl_certificate_key {certs}/legacy/tls.key;
        return 200 "legacy\\n";
    }}
    server {{ # catalogue
        listen 127.0.0.1:{catalogue};
        root {folder}/www;
        location /admin/ {{ return 200 "admin xfcc=$http_x_forwarded_client_cert\\n"; }}
        client_max_body_size 0;
        location /upload {{ proxy_pass http://127.0.0.1:{catalogue}/size; }} # read whole, then passed on
        location /size {{ return 200 $content_length; }}
        location /headers {{ return 200 "$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_request_id\\n"; }}
    }}
}}
"""

PAGE = """<!doctype html>
<title>shop</title>
<link rel="stylesheet" href="/style.css">
<p id="said">script did not run</p>
<script>
fetch("/robots.txt").then(answer => answer.text()).then(robots => {
    const [page] = performance.getEntriesByType("navigation");
    const style = getComputedStyle(document.body).color;
    document.getElementById("said").textContent =
        `protocol=${page.nextHopProtocol} color=${style} robots=${robots.split("\\n")[0]}`;
});
</script>
"""


class Nginx:
    def __init__(self, edge):
        folder = edge.folder / "nginx"
        www = folder / "www"
        www.mkdir(parents=True)
        # Its worker may run as another user.
        for parent in [edge.folder, *edge.folder.parents][:3]:
            parent.chmod(parent.stat().st_mode | 0o055)
        (www / "jwks.json").write_text(edge.issuer.key_set())
        (www / "index.html").write_text("catalogue\n")
        (www / "page.html").write_text(PAGE)
        (www / "style.css").write_text("body { color: rgb(1, 2, 3) }")
        self.download = www / "download"
        self.download.write_bytes(secrets.token_bytes(1 << 20) * (DOWNLOAD_BYTES >> 20))
        ports = edge.backends
        text = CONFIG.format(
            folder=folder,
            certs=edge.folder / "certs",
            keys=ports["9400"],
            cart=ports["9401"],
            legacy=ports["9402"],
            catalogue=ports["9403"],
        )
        (folder / "nginx.conf").write_text(text)
        command = ["/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"]
        self.process = subprocess.Popen([*command, "-e", folder / "error.log"])
        from edge import wait

        wait("nginx listens", lambda: self._listens(ports["9403"]))

    def _listens(self, port):
        assert self.process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
