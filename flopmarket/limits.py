"""Named maxima of everything that is not the engine: messages, documents, uploads, queues.

Passing one is a clear error (:class:`flopmarket.errors.LimitExceeded`) that names the limit;
nothing is truncated or dropped silently. Units are in the names. The engine keeps its own table in
``engine/limits.py``.
"""

from __future__ import annotations

# --- trust: documents, envelopes, keys, trees, receipts -------------------------------------------

MAX_DOCUMENT_BYTES = 1 << 20  # one encoded document, unless its declaration names another bound
MAX_DOCUMENT_TEXT_BYTES = 16 << 10  # one text field, in UTF-8, unless its annotation says otherwise
MAX_DOCUMENT_ITEMS = 65_536  # one tuple field, unless its annotation says otherwise
MAX_DOCUMENT_NATURAL_BYTES = 64  # one arbitrary-precision integer: below 2**512
MAX_DOCUMENT_NESTING = 8  # documents inside documents, counted when a type is declared

MAX_ENVELOPE_PAYLOAD_BYTES = MAX_DOCUMENT_BYTES + 4096  # a document and the header around it
MAX_ENVELOPE_BYTES = MAX_ENVELOPE_PAYLOAD_BYTES + 4096  # binary form
MAX_ENVELOPE_JSON_BYTES = 2 * MAX_ENVELOPE_BYTES  # file form: base64 and white space
MAX_ENVELOPE_SIGNATURES = 4  # carried; the protocol's own documents have exactly one
MAX_ENVELOPE_CANDIDATE_KEYS = 16  # tried when an envelope carries no key-id hint
ENVELOPE_NONCE_BYTES = 16
MAX_CLOCK_SKEW_US = 5 * 60 * 1_000_000  # an envelope may come this far from the future
MAX_REPLAY_NONCES = 1_000_000  # remembered by the in-memory replay cache
MAX_REPLAY_NONCES_PER_KEY = 100_000  # so that one busy key cannot fill the cache for all

MAX_KEY_FILE_BYTES = 16 << 10
MAX_CLIENT_LEAF_SECONDS = 24 * 3600  # a worker's TLS certificate
MERKLE_LEAF_BYTES = 1 << 20
MAX_TENSOR_RANK = 64
MAX_STATE_TENSORS = 1_000_000
MAX_TENSOR_NAME_BYTES = 1024
MAX_RECEIPT_BYTES = 64 << 20  # a signed receipt file: about 50,000 segments
MAX_RECEIPT_SEGMENTS = 50_000

# --- jobs: specification, bundles, segments -------------------------------------------------------

MAX_JOB_STEPS = 2**40  # steps of one job
MAX_SEGMENT_STEPS = 1_000_000  # steps of one segment
MAX_BUNDLE_BYTES = 8 << 30  # one file of named tensors
MAX_SEGMENT_OUTPUT_BYTES = 1 << 30  # outputs of one segment, all steps stacked
MAX_CONTROL_LINE_BYTES = 1 << 20  # one message between an engine process and its parent

# --- coordinator's edge: calls, streams, uploads --------------------------------------------------

MAX_MESSAGE_BYTES = 4 << 20  # one gRPC message either way; never raised
MAX_METADATA_BYTES = 16 << 10  # headers of one call
MAX_ERROR_MESSAGE_CHARACTERS = 1024  # of an error, on the wire
MAX_ERROR_DETAIL_CHARACTERS = 256  # one value of an error's metadata
MAX_CONCURRENT_CALLS = 4096  # of one coordinator; a worker's session is one of them
MAX_STREAMS_PER_CONNECTION = 16
MAX_CALLS_PER_CALLER = 64  # open at the same time, streams included
MAX_RATE_CALLERS = 10_000  # token buckets in memory
MAX_TOKEN_CHARACTERS = 512  # a bearer token
MAX_UNARY_SECONDS = 60  # a call that names no deadline gets this one
MAX_SESSION_QUEUE_MESSAGES = 64  # waiting for a slow worker; then its connection is dropped
SESSION_HELLO_SECONDS = 15  # a worker's first message
MAX_HELLO_OFFERS = 64  # devices of one worker
MAX_HELD_LEASES = 256  # named in one hello or heartbeat
MAX_PROGRESS_SCALARS = 64  # values in one progress report
ARTIFACT_CHUNK_BYTES = 1 << 20
MAX_ARTIFACT_BYTES = MAX_BUNDLE_BYTES
MAX_STAT_DIGESTS = 1024  # of one artifact inquiry
UPLOAD_IDLE_SECONDS = 60  # between two chunks
MAX_INLINE_PROGRAM_BYTES = 3 << 20  # in a quote; larger programs are uploaded first
MAX_PAGE_SIZE = 1000
MAX_REQUEST_TEXT_CHARACTERS = 256  # ids, labels, page tokens of a request
DEFAULT_PAGE_SIZE = 100
MAX_WATCH_EVENTS = 256  # read from the store at once
MAX_QUOTED_OFFERS = 100  # listed in a quote, cheapest first; all of them are counted
MAX_REASON_CHARACTERS = 1024  # why a worker gave a lease back
AUDIT_STEP_SECONDS = 1800  # silence of the auditing engine; then it is ended and tried again
AUDIT_RETRY_MAX_SECONDS = 60.0  # between two tries of one job

# --- client and command line ----------------------------------------------------------------------

MAX_CONFIG_BYTES = 64 << 10  # the user's configuration file
MAX_JOB_FILE_BYTES = 1 << 20  # a JOB.py
MAX_REMOTE_TEXT_CHARACTERS = 500  # shown of one text that came from a peer
CLIENT_CALL_SECONDS = 30  # deadline of a unary call
CLIENT_TRANSFER_SECONDS = 3600  # deadline of one upload or download
CLIENT_WATCH_GIVE_UP_SECONDS = 300  # without any answer, a watch ends with an error
CLIENT_SESSION_LIFETIME_US = 5 * 60 * 1_000_000  # of a signed request for a session
CLIENT_SESSION_MARGIN_US = 60 * 1_000_000  # a token this near its end is renewed
CLIENT_PAGE_SIZE = 200
MAX_CLIENT_PAGES = 1000  # of one listing

# --- worker: leases, transfers, connection --------------------------------------------------------

MAX_UNANSWERED_COMMITMENTS = 4  # segments computed ahead of the coordinator's answers, one lease
MAX_LEASE_STORY_LINES = 64  # transitions remembered of one lease, for the error that names a bug
MAX_ENDED_LEASES = 1024  # remembered so that none of them is run twice
MAX_UNSENT_RELEASES = 256  # releases kept while the coordinator is away
MAX_LOCAL_STATE_BYTES = 64 << 20  # a state up to this is written to disk after every segment
WORKER_EXECUTOR_RETRIES = 1  # fresh engine processes one lease gets after a death
MAX_WORKER_DEVICES = 64  # devices of one agent
MAX_OUTGOING_MESSAGES = 1024  # of one connection, waiting to be written
MAX_LEASE_JOURNAL_BYTES = 256 << 20  # what one lease writes down about its segments
MAX_RECOVERED_LEASES = 256  # lease folders looked at when a worker starts
MAX_CALIBRATION_BYTES = 1 << 20  # cached admission and benchmark of one device
MAX_TRANSFER_CHUNK_BYTES = 1 << 20
MAX_PROGRAM_ARTIFACT_BYTES = 32 << 20  # as the engine's own limit on programs
DEFAULT_ARTIFACT_CACHE_BYTES = 20 << 30  # fetched artifacts kept between jobs, oldest go first
MIN_FREE_DISK_BYTES = 256 << 20  # a download stops before the disk is fuller than this
SLOWEST_TRANSFER_BYTES_PER_SECOND = 64 << 10  # what a transfer's deadline allows for
TRANSFER_GRACE_SECONDS = 60.0
UNARY_DEADLINE_SECONDS = 20.0
SESSION_RENEW_BEFORE_SECONDS = 60.0  # a token is replaced this long before it expires
RECONNECT_FIRST_SECONDS = 0.25
RECONNECT_MOST_SECONDS = 30.0
WORKER_STOP_SECONDS = 6.0  # from the wish to stop until unfinished reports are left on disk
EXECUTOR_STOP_SECONDS = 2.5  # for an engine process to end in good order
WORKER_DOCUMENT_SECONDS = 7 * 24 * 3600  # lifetime of offers, acceptances and commitments

# --- coordinator: use cases and store -------------------------------------------------------------

MAX_JOB_TITLE_LENGTH = 200  # characters
MAX_REQUEST_ID_LENGTH = 128  # characters
MAX_RELEASE_DETAIL_LENGTH = 500  # characters kept of what a worker says when it gives a lease back
MAX_OFFERS_PER_WORKER = 64  # offers of one hello
MAX_PAGE_ROWS = 500  # rows of one page of any list
MAX_CACHED_PROGRAMS = 64  # programs whose cost is remembered
MAX_COMMANDS_PER_COMMIT = 256  # commands of one database transaction
MAX_QUEUED_COMMANDS = 4_096  # commands that wait for the writer
