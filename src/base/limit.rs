//! Every bound in the program in one place: value, unit and reason.
//!
//! `docs/limits.md` is the same table for operators; a test compares the two.

use std::num::NonZeroU32;
use std::time::Duration;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr, $shown:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: $type = $value;)+

        /// Name, shown value and reason of each limit, for the documentation.
        pub const TABLE: &[(&str, &str, &str)] =
            &[$((stringify!($name), $shown, concat!($($doc),+))),+];
    };
}

limits! {
    /// A configuration file larger than this is refused: a snapshot of thousands of hosts needs less.
    CONFIG_FILE_BYTES: u64 = 16 << 20, "16 MiB";
    /// Of a document that is not YAML: a longer one may be about every host.
    BROKEN_TEXT_BYTES: usize = 1 << 20, "1 MiB";
    /// Resources looked for in one such document; of more, one of each kind stands for all of any namespace.
    BROKEN_TEXT_RESOURCES: usize = 1_000, "1,000 resources";
    /// Hosts that are refused on one port because what was to serve them cannot be used; one finding
    /// says that there are more.
    UNSERVED_HOSTS: usize = 1_000, "1,000 hosts";
    /// Files read from one configuration source.
    CONFIG_FILES: usize = 20_000, "20,000 files";
    /// Gateways of a network, and blocks of addresses of all networks together (MeshNetworks).
    NETWORK_PARTS: usize = 1_000, "1,000 gateways or blocks";
    /// Folders below each other in a configuration source; deeper ones are left out.
    CONFIG_FOLDERS_DEPTH: usize = 16, "16 folders";
    /// YAML nodes in one file, aliases expanded and long text counted as several: stops alias
    /// bombs.
    YAML_NODES: usize = 2_000_000, "2,000,000 nodes";
    /// Nesting of YAML values: deeper than any Istio resource.
    YAML_DEPTH: usize = 64, "64 levels";
    /// Values of the wrong type told of one resource.
    VALUE_ERRORS: usize = 20, "20 values";
    /// Findings kept of one configuration file; one more says that others were left out.
    FILE_FINDINGS: usize = 1_000, "1,000 findings";
    /// A certificate, key, CA or CRL file.
    CREDENTIAL_FILE_BYTES: u64 = 4 << 20, "4 MiB";
    /// Length of a regular expression in a resource, as Istio's validation has it, and of what takes the place
    /// of what it finds.
    REGEX_BYTES: usize = 1024, "1,024 bytes";
    /// Compiled size of one regular expression.
    REGEX_PROGRAM_BYTES: usize = 1 << 20, "1 MiB";
    /// Format of a time in a header (`%START_TIME(...)%`).
    TIME_FORMAT_BYTES: usize = 256, "256 bytes";
    /// Rules of one host from which they are indexed: below, a scan is as fast.
    INDEXED_RULES: usize = 16, "16 rules";
    /// Rules of the policies of one action from which they are indexed: a look-up costs what three or four take
    /// that do not match.
    INDEXED_POLICY_RULES: usize = 4, "4 rules";
    /// Pairs of a match in a VirtualService and one of its delegates' that are put together; what the rules
    /// beyond take gets 503.
    DELEGATED_MATCHES: usize = 10_000, "10,000 pairs";
    /// Comparisons of the matches of one VirtualService, to tell those that nothing reaches.
    MATCH_COMPARISONS: usize = 1_000_000, "1,000,000 comparisons";
    /// Path and query of a request once a rule has rewritten them, the most that the HTTP library holds: longer
    /// ones get 414.
    TARGET_BYTES: usize = 65_534, "65,534 bytes";
    /// Length of a direct response body.
    DIRECT_RESPONSE_BYTES: usize = 1 << 20, "1 MiB";

    /// A whole ClientHello, in however many records; the protocol's own bound for one message.
    CLIENT_HELLO_BYTES: usize = 64 << 10, "64 KiB";
    /// From accept to a whole ClientHello, or to what tells on a workload's port which protocol is
    /// spoken; a silent caller's is bytes then, where those may come.
    CLIENT_HELLO_TIME: Duration = Duration::from_secs(5), "5 s";
    /// Bytes of a request line looked at to tell HTTP from other protocols on a workload's port that is
    /// not declared.
    REQUEST_LINE_SEEN_BYTES: usize = 16 << 10, "16 KiB";
    /// What follows the fixed part of a PROXY header of version 2.
    PROXY_HEADER_BYTES: usize = 4 << 10, "4 KiB";
    /// From ClientHello to the end of the handshake.
    HANDSHAKE_TIME: Duration = Duration::from_secs(10), "10 s";
    /// From the first byte of a request head, or of an HTTP/2 frame that is no content, to its end; from accept, or a handshake without ALPN, to
    /// the bytes that tell HTTP/1.1 from HTTP/2.
    REQUEST_HEAD_TIME: Duration = Duration::from_secs(10), "10 s";
    /// A WebSocket, gRPC or gRPC-Web call, event stream, lasting upload or stream of bytes is judged again so
    /// often, where policies, certificates or keys changed or it has a token. Any other answer is judged again
    /// when more of it comes, at once: while none does it stays open.
    JUDGED_AGAIN_TIME: Duration = Duration::from_secs(3), "3 s";
    /// Body of a request from which its upload counts as lasting; one without a length does, too.
    LASTING_BODY_BYTES: u64 = 64 << 10, "64 KiB";
    /// HTTP/1.1 connection without a request.
    IDLE_HTTP1_TIME: Duration = Duration::from_mins(1), "60 s";
    /// HTTP/2 connection without a stream.
    IDLE_HTTP2_TIME: Duration = Duration::from_mins(5), "300 s";
    /// A request body, or a client's reading of a response, that makes no progress, a short
    /// answer that an HTTP/2 client gives no window for among them.
    STALL_TIME: Duration = Duration::from_mins(1), "60 s";
    /// Waiting for a backend to ask for a body announced with `Expect: 100-continue`; curl waits as
    /// long.
    EXPECT_TIME: Duration = Duration::from_secs(1), "1 s";
    /// TCP stream without a byte either way (Istio's default).
    TCP_IDLE_TIME: Duration = Duration::from_hours(1), "1 h";
    /// Connecting to an endpoint, TLS included (Istio's default).
    CONNECT_TIME: Duration = Duration::from_secs(10), "10 s";
    /// Bytes of a request body kept for another try; what is longer is sent once.
    RETRY_BODY_BYTES: usize = 64 << 10, "64 KiB";
    /// Frames of a request body kept for another try, or waiting for a mirror.
    RETRY_BODY_FRAMES: usize = 1_024, "1,024 frames";
    /// Bytes of a request body waiting for a mirror; then the mirror is given up.
    MIRROR_BODY_BYTES: usize = 256 << 10, "256 KiB";
    /// Mirrored requests under way on one worker; further ones are not sent.
    MIRRORED_REQUESTS: usize = 1_024, "1,024 requests";
    /// One mirrored request, from its start to the end of its answer.
    MIRROR_TIME: Duration = Duration::from_mins(1), "60 s";
    /// Wait before a request is tried again; doubles with each try (Envoy's default).
    RETRY_BASE_TIME: Duration = Duration::from_millis(25), "25 ms";
    /// Unused upstream connection: below the usual keep-alive times of backends.
    UPSTREAM_IDLE_TIME: Duration = Duration::from_secs(55), "55 s";
    /// Unused upstream connections kept per endpoint and worker.
    UPSTREAM_IDLE_CONNECTIONS: usize = 1_024, "1,024 connections";
    /// Streams on one HTTP/2 connection to a backend before another is opened.
    UPSTREAM_STREAMS: NonZeroU32 = NonZeroU32::new(100).unwrap(), "100 streams";

    /// Waiting for a connection of a backend that has as many as it may
    /// (`connectionPool.tcp.maxConnections`).
    PENDING_TIME: Duration = Duration::from_mins(1), "60 s";
    /// Bytes that wait for a proxy to take them as the body of a POST: as much as one copy moves.
    TUNNEL_BYTES: usize = 16 << 10, "16 KiB";
    /// Entries of one table for consistent hashing, in each worker.
    HASH_TABLE_ENTRIES: u32 = 5_000_011, "5,000,011 entries";
    /// Longest an endpoint stays ejected, unless `baseEjectionTime` is longer (Envoy's default).
    EJECTION_MOST_TIME: Duration = Duration::from_mins(5), "300 s";

    /// Request head, HTTP/1.1 (Envoy's default).
    HTTP1_HEAD_BYTES: usize = 60 << 10, "60 KiB";
    /// What a backend may send over HTTP/1.1 from a request to the end of its answer's head, informational answers (1xx) among it.
    ANSWER_HEAD_BYTES: usize = 1 << 20, "1 MiB";
    /// Header fields in one HTTP/1.1 request (Envoy's default, and the most that hyper reads unasked:
    /// more would be memory from the allocator for each request).
    HTTP1_HEADER_FIELDS: usize = 100, "100 fields";
    /// Header fields in one HTTP/2 request, parts of cookies among them.
    HTTP2_HEADER_FIELDS: usize = 128, "128 fields";
    /// Header names a `Connection` header may nominate; more is an attack (Envoy's bound).
    CONNECTION_NOMINATIONS: usize = 10, "10 names";
    /// Elements of `x-forwarded-for` looked at from the right, where a Gateway lists the proxies that it
    /// trusts; where they all are and more come, the peer counts.
    TRUSTED_PROXIES: usize = 32, "32 elements";
    /// Decoded header list, HTTP/2.
    HTTP2_HEADER_LIST_BYTES: u32 = 60 << 10, "60 KiB";
    /// Concurrent streams on one HTTP/2 connection.
    HTTP2_STREAMS: u32 = 128, "128 streams";
    /// HTTP/2 stream window.
    HTTP2_STREAM_WINDOW: u32 = 64 << 10, "64 KiB";
    /// HTTP/2 connection window.
    HTTP2_CONNECTION_WINDOW: u32 = 1 << 20, "1 MiB";
    /// Streams the client reset before they were answered (rapid reset).
    HTTP2_PENDING_RESETS: usize = 20, "20 streams";
    /// Streams we reset for the client's protocol errors (made-you-reset).
    HTTP2_LOCAL_RESETS: usize = 500, "500 streams";
    /// HTTP/2 frames without content (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA,
    /// unknown ones) that a peer may send at once; then its connection ends with ENHANCE_YOUR_CALM.
    HTTP2_CONTROL_FRAMES: u32 = 1_000, "1,000 frames";
    /// How many of them more each second.
    HTTP2_CONTROL_FRAMES_RATE: u32 = 100, "100 frames";
    /// How many of them more for each stream that is opened and each DATA frame that the peer gets
    /// (Envoy's default for the latter).
    HTTP2_CONTROL_FRAMES_EARNED: u32 = 10, "10 frames";
    /// Streams that a client may reset at once beyond every second one that it opens (rapid reset).
    HTTP2_RESETS: u32 = 200, "200 streams";
    /// How many of them more each second.
    HTTP2_RESETS_RATE: u32 = 50, "50 streams";
    /// Connections the process holds, when the limit on files allows it.
    CONNECTIONS: usize = 100_000, "100,000 connections, at most half of the file limit";
    /// Open files that must be allowed for a start, beside its workers'.
    FILES_OF_A_START: usize = 48, "48 files";
    /// Open files that must be allowed for each worker.
    FILES_OF_A_WORKER: usize = 8, "8 files";

    /// A token longer than this is refused before it is decoded.
    TOKEN_BYTES: usize = 16 << 10, "16 KiB";
    /// Different tokens looked at in one request.
    REQUEST_TOKENS: usize = 8, "8 tokens";
    /// Signature checks for one request; each key that may have signed a token is one.
    REQUEST_SIGNATURES: usize = 100, "100 checks";
    /// Verified tokens that a worker remembers, so that their signatures are not checked again.
    CACHED_TOKENS: usize = 4_096, "4,096 tokens";
    /// Payloads of the verified tokens that a worker remembers.
    CACHED_TOKEN_BYTES: usize = 2 << 20, "2 MiB";
    /// Answer of a provider of external authorization (Istio's default). A client that ended its own direction
    /// waits as long, as with Envoy: it may await an answer; one that resets its connection does not.
    EXTERNAL_CHECK_TIME: Duration = Duration::from_mins(10), "600 s";
    /// Body of such an answer.
    EXTERNAL_ANSWER_BYTES: usize = 256 << 10, "256 KiB";
    /// Headers that such an answer may change, of the request and of the answer each; one that changes more
    /// has failed.
    EXTERNAL_CHANGES: usize = 128, "128 headers";
    /// Most of a request's body that a provider is told.
    EXTERNAL_BODY_BYTES: usize = 1 << 20, "1 MiB";
    /// A fetched key set.
    JWKS_BYTES: usize = 1 << 20, "1 MiB";
    /// Keys used of one key set.
    JWKS_KEYS: usize = 100, "100 keys";
    /// One fetch of a key set.
    JWKS_FETCH_TIME: Duration = Duration::from_secs(5), "5 s";
    /// A key set is fetched anew after this time.
    JWKS_REFRESH_TIME: Duration = Duration::from_mins(20), "20 min";
    /// A key set is fetched anew not before this time, whatever its `Cache-Control` says.
    JWKS_REFRESH_MIN_TIME: Duration = Duration::from_mins(1), "1 min";
    /// Longest wait between two tries for a key set that was never had.
    JWKS_RETRY_TIME: Duration = Duration::from_secs(5), "5 s";
    /// At most one fetch in this time for tokens of an issuer whose keys were never had.
    JWKS_MISSING_TIME: Duration = Duration::from_secs(1), "1 s";
    /// At most one fetch in this time for a key id that the set does not hold.
    JWKS_UNKNOWN_KEY_TIME: Duration = Duration::from_secs(5), "5 s";
    /// A failure to fetch a key set is told no sooner than this after the last one that was.
    JWKS_TOLD_TIME: Duration = Duration::from_mins(1), "1 min";
    /// A failure to fetch a key set that lasts, for one reason, is told again after this time.
    JWKS_REMINDER_TIME: Duration = Duration::from_mins(10), "10 min";
    /// A key set kept on disk is used after a restart when it was fetched within this time (Istio
    /// forgets one that nothing uses after as long).
    JWKS_KEPT_TIME: Duration = Duration::from_hours(7 * 24), "7 days";
    /// Redirects followed for a key set.
    JWKS_REDIRECTS: usize = 3, "3 redirects";

    /// A certificate signing request, as PEM.
    CA_REQUEST_BYTES: usize = 16 << 10, "16 KiB";
    /// A message to the CA or to its sockets.
    CA_MESSAGE_BYTES: usize = 64 << 10, "64 KiB";
    /// Connections to each of the CA's addresses.
    CA_CONNECTIONS: usize = 512, "512 connections";
    /// Connections of one user to each of the CA's sockets.
    CA_USER_CONNECTIONS: usize = 128, "128 connections";
    /// Calls on one connection to the CA.
    CA_CALLS: u32 = 16, "16 calls";
    /// One CreateCertificate, from the request's head to its answer.
    CA_CALL_TIME: Duration = Duration::from_secs(10), "10 s";
    /// Longest life of an issued certificate; asking for more is refused (Istio's default).
    CA_LIFETIME: Duration = Duration::from_hours(90 * 24), "90 days";
    /// A revocation list is good for this long; it is written anew at half of it.
    CA_CRL_TIME: Duration = Duration::from_hours(24), "24 h";
    /// Once the CA's issuance log is this large, and each time it has doubled since, lines of certificates
    /// that have ended are taken out.
    CA_LOG_BYTES: u64 = 1 << 20, "1 MiB";
    /// Files of the CA are looked at this often.
    CA_SCAN_TIME: Duration = Duration::from_secs(1), "1 s";
    /// A connection to the CA's port ends after this long, its calls finished; clients connect anew.
    CA_CONNECTION_TIME: Duration = Duration::from_mins(5), "5 min";
    /// One message from where the mesh identity comes from.
    IDENTITY_MESSAGE_BYTES: usize = 4 << 20, "4 MiB";
    /// Connecting to where the mesh identity comes from, and one CreateCertificate.
    IDENTITY_CALL_TIME: Duration = Duration::from_secs(10), "10 s";
    /// Longest wait before the mesh identity is asked for again after a failure.
    IDENTITY_RETRY_TIME: Duration = Duration::from_secs(5), "5 s";
    /// The gateway stops being ready this long before its mesh identity ends, or a tenth of the
    /// identity's life when that is less.
    IDENTITY_READY_TIME: Duration = Duration::from_mins(5), "5 min";

    /// Quiet time after a file change before the configuration is read.
    RELOAD_QUIET_TIME: Duration = Duration::from_millis(10), "10 ms";
    /// Longest a stream of file changes can put off a reload.
    RELOAD_MAX_WAIT: Duration = Duration::from_millis(250), "250 ms";
    /// A file written in place that lost documents is believed after this long without a change.
    RELOAD_SETTLE_TIME: Duration = Duration::from_secs(1), "1 s";
    /// A file that is open for writing is waited for this long after the last write to it.
    RELOAD_WRITE_TIME: Duration = Duration::from_secs(5), "5 s";
    /// A file that is open for writing is waited for this long at most.
    RELOAD_WRITE_MOST_TIME: Duration = Duration::from_secs(30), "30 s";
    /// Time between two looks at files of which no change was told.
    RELOAD_SCAN_TIME: Duration = Duration::from_secs(30), "30 s";
    /// Time between two tries to bind what could not be bound.
    BIND_RETRY_TIME: Duration = Duration::from_secs(3), "3 s";
    /// Ending and logging connections that are cut when the gateway stops.
    CUT_TIME: Duration = Duration::from_millis(200), "200 ms";
    /// Findings that depend on time alone are made anew at most once in this time.
    RELOAD_CLOCK_TIME: Duration = Duration::from_mins(1), "60 s";
    /// Waiting for workers to move on to a new snapshot, before the old one is freed later.
    SNAPSHOT_HANDOVER_TIME: Duration = Duration::from_millis(100), "100 ms";
    /// Distinct label sets of request metrics; further ones are counted under `other`.
    METRIC_SERIES: usize = 2_000, "2,000 label sets";
    /// Series of a destination or server that is no longer configured are shown this long, so that its
    /// last counts are scraped.
    METRIC_GRACE_TIME: Duration = Duration::from_mins(5), "5 min";
    /// Metrics made at once for a scrape; more is made when that was taken.
    SCRAPE_CHUNK_BYTES: usize = 64 << 10, "64 KiB";
    /// Scrapes under way; further ones get 503.
    SCRAPES: usize = 8, "8 scrapes";
    /// Pages of the admin port made or sent at once; further ones wait.
    ADMIN_PAGES: usize = 2, "2 pages";
    /// Lines waiting for the access log's writer; further ones are dropped and counted.
    ACCESS_LOG_BYTES: usize = 8 << 20, "8 MiB";
    /// Writing the last lines of the access log at the end; a reader that does not read loses them.
    ACCESS_LOG_STOP_TIME: Duration = Duration::from_secs(1), "1 s";
    /// Connections to each of the status, metrics and admin ports.
    ADMIN_CONNECTIONS: usize = 64, "64 connections";
    /// One connection to the status, metrics or admin port, from accept to its end.
    ADMIN_TIME: Duration = Duration::from_secs(30), "30 s";
    /// One probe of the application, from its connection to the end of its answer, whatever its
    /// `timeoutSeconds`.
    PROBE_TIME: Duration = Duration::from_secs(25), "25 s";
    /// Body of the application's answer to a probe; what is longer is cut (Istio's bound).
    PROBE_BODY_BYTES: usize = 10 << 10, "10 KiB";
    /// Answer of a DNS server is kept at least this long.
    DNS_MIN_TIME: Duration = Duration::from_secs(1), "1 s";
    /// DNS's word that a name has no address is believed at most this long.
    DNS_ABSENT_TIME: Duration = Duration::from_mins(1), "60 s";
    /// Next try after a failed resolution.
    DNS_RETRY_TIME: Duration = Duration::from_secs(5), "5 s";
    /// Addresses used of one DNS answer.
    DNS_ADDRESSES: usize = 256, "256 addresses";
}
