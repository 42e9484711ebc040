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
CLIENT_LEAF_SECONDS = 12 * 3600  # of one that is issued; renewed after two thirds
MAX_CSR_BYTES = 4 << 10  # a request for one, PEM
MAX_OWNERSHIP_LINKS = 64  # of one account's chain: rotations, recovery keys, recoveries
RECOVERY_LINKS = 16  # of these, kept for recoveries and objections
MAX_KEY_ROTATIONS = 32  # of one device or CI key, one after another
MAX_JOIN_TOKEN_CHARACTERS = 2048
MAX_ADDRESS_CHARACTERS = 260  # host and port
MAX_INVITATIONS_PER_ACCOUNT = 100  # that are open
MAX_INVITATION_SECONDS = 30 * 24 * 3600
MAX_OPEN_ACCOUNT_INVITATIONS = 10_000  # of operators, each to open one account
MAX_KEYS_PER_ACCOUNT = 10_000  # of every role, ended ones included
MAX_DUE_RECOVERIES = 100  # that take effect in one command
MAX_LISTED_SESSIONS = 1_000  # of one account, in one answer
MERKLE_LEAF_BYTES = 1 << 20
MAX_HASHING_THREADS = 8
MAX_TENSOR_RANK = 64
MAX_STATE_TENSORS = 1_000_000
MAX_TENSOR_NAME_BYTES = 1024
MAX_RECEIPT_BYTES = 64 << 20  # a signed receipt file: about 50,000 segments
MAX_RECEIPT_SEGMENTS = 50_000
MAX_CHAIN_VALUES = 1 << 16  # of one lease's hash chain: steps, so commitments, it can have
MAX_AUDIT_CANDIDATES = 4_096  # device keys that one lease's audits are drawn from
MAX_AUDIT_PANEL = 512  # devices that one coordinator's audits are drawn from at a time
MAX_REPLAYED_SEGMENTS = 65_536  # compared on the way to an audited one; later ones are only run
MAX_AUDIT_FILE_LINE_BYTES = 256 << 20  # one lease with its commitments, in a file of audits
MAX_AUDITS_PAGE_BYTES = 3 << 20  # of published draws in one message
MAX_CACHED_DOCUMENTS = 64  # rules and lists of auditors that leases name, in memory
MAX_CACHED_CHAINS = 512  # of live leases, in memory; others are derived again
MAX_AUDIT_ROUNDS = 64  # auditors asked for one segment, one after another
MAX_AUDITED_STEPS = 1_024  # drawn from one segment, whatever rules say
MAX_AUDIT_RULES_FILE_BYTES = 64 << 10  # of an operator's own constants
MAX_ARBITER_PASSES = 4  # times that one device of a class is asked to decide one difference
MAX_AUDITS_PER_TICK = 128  # moved on in one round; the next one goes on
MAX_AUDIT_WAY_SEGMENTS = 1_024  # from a durable state to an audited segment; longer ways: the house
MAX_CANARY_DRAWS = 1 << 14  # of one day; audits beyond have no canaries
MAX_CANARY_FILE_BYTES = 256 << 20  # of a day's draws
MAX_KNOWN_RIGHT_SEGMENTS = 64  # newest ones that a canary is chosen from

# --- trust: benchmark challenges ------------------------------------------------------------------

MAX_BENCHMARK_STAGES = 24  # of one kind, in one challenge
MAX_BENCHMARK_PRODUCTS = 4_096  # matrix products of one stage
MAX_BENCHMARK_SIDE = 16_384  # rows and columns of a product
MAX_BENCHMARK_TERMS = 65_536  # of one element of a product
MAX_BENCHMARK_ELEMENTS = 1 << 30  # words of the array of a memory stage: 4 GiB
MAX_BENCHMARK_PASSES = 12  # over that array; recomputing one word costs 2**passes
MAX_BENCHMARK_READS = 1 << 22  # random reads of one memory stage
MAX_BENCHMARK_LEAVES = 1 << 20  # of one stage's tree
MAX_BENCHMARK_LEAF_BYTES = 4_096  # of one leaf
MAX_BENCHMARK_OPENED = 128  # tiles, blocks and reads opened in one challenge
MAX_BENCHMARK_DEVICES = 100_000  # grouped at once by what they share
MAX_MEASURED_BYTES = 2 << 30  # device memory of one workload of the plain benchmark
MAX_SIMULTANEOUS_CHALLENGES = 64  # devices challenged at the same moment
MAX_OPEN_CHALLENGES = 64  # of one coordinator, openings that wait to be recomputed included
MAX_OPENING_BYTES = 480 << 10  # of one opening; hexadecimal, it fits a control line
MAX_KEPT_CHALLENGES = 32  # ended ones of one offer, newest first
MAX_BENCHMARK_REPORT_BYTES = 2 << 20  # a file with a signed report and its opening

# --- trust: disputes ------------------------------------------------------------------------------

MAX_DISPUTE_STEPS = 262_144  # of one segment that is disputed by lists; a longer one is run again
MAX_DISPUTE_OUTPUTS = 10_000  # tensors that one step puts out
MAX_DISPUTE_OPERATIONS = 262_144  # values of one step, every turn of its loops counted
MAX_DISPUTE_TILES = 524_288  # of one value: 2**31 elements in whole tiles
MAX_DISPUTE_TILE_BYTES = 1 << 20  # one tile, or one leaf of a tensor
MAX_DISPUTE_OPENED_TILES = 8_192  # that one tile is computed from
MAX_DISPUTE_OPENED_BYTES = 128 << 20  # of them together; more is decided by a third run
MAX_DISPUTE_ROUNDS = 524_288  # one after another, to recompute one tile: terms of a sum, updates
MAX_DISPUTE_MOVE_BYTES = 160 << 20  # one list, or the inputs of one tile with their proofs
MAX_DISPUTE_PROGRAM_BYTES = 32 << 20  # of the program that travels with a transcript
MAX_DISPUTE_SESSIONS = 64  # open at a time while a party replays operation by operation
MAX_DISPUTE_MOVES = 32  # records of one dispute: two parties, four levels, time, asked again
MAX_REFERENCE_STEP_OPERATIONS = 2 * 10**9  # of a step that a party replays by the reference
MAX_INLINE_DISPUTE_BYTES = 1 << 20  # a list that travels in a message; longer ones are uploaded
MAX_OPEN_DISPUTES = 256  # of one coordinator; a difference beyond is decided by a third run
MAX_HOUSE_DISPUTES = 2  # about one segment that the house may lose; then the worker is believed
MAX_REFEREED_DISPUTES = (
    8  # held in the referee's memory; others are played again from their records
)
MAX_WORKER_DISPUTES = 16  # questions of different disputes that one worker answers, in turn
DISPUTE_DEVICE_WAIT_SECONDS = 30.0  # for a lease's segment to end before a replay shares its device
MAX_DISPUTE_ASKED_AGAIN = 16  # times that a dispute's clock begins anew after the referee was away
MAX_DISPUTE_TRANSCRIPT_BYTES = 512 << 20  # one file
MAX_RULING_FILE_BYTES = 4 << 20  # what stands behind a ruling without a dispute of lists
MAX_RULING_CONSEQUENCES = 64  # shown of one ruling

# --- trust: tolerance -----------------------------------------------------------------------------

MAX_TOLERANCE_STEP_BYTES = 256 << 20  # of the values of one step that its producer hands over
MAX_TOLERANCE_ANSWER_BYTES = 2 << 30  # states and values of all steps of a segment that are judged
MAX_TOLERANCE_VALUES = 65_536  # operations of one step that rounding decides, loops spelled out
MAX_TOLERANCE_TERMS = 65_536  # of one sum or product: more was never calibrated
MAX_JUDGED_PRODUCT_FLOPS = 10**8  # of a step's products in full; beyond: vectors and some rows
MAX_DEVICE_JUDGED_FLOPS = 10**12  # the same where the house has an exact device for it

# --- jobs: specification, bundles, segments -------------------------------------------------------

MAX_JOB_STEPS = 2**40  # steps of one job
MAX_SEGMENT_STEPS = 1_000_000  # steps of one segment
MAX_TOLERANCE_SEGMENT_STEPS = 50  # steps of one segment in tolerance mode
MAX_BUNDLE_BYTES = 8 << 30  # one file of named tensors
MAX_SEGMENT_OUTPUT_BYTES = 1 << 30  # outputs of one segment, all steps stacked
MAX_CONTROL_LINE_BYTES = 1 << 20  # one message between an engine process and its parent

# --- market: orders ---------------------------------------------------------------------------

MAX_ORDER_REGIONS = 32  # in one list of an order
MAX_ORDER_OWNERS = 64  # in one list of an order
MAX_REGION_CHARACTERS = 32  # of a region's name
MAX_EXPLAINED_OFFERS = 64  # of one account, in one answer
MAX_QUOTED_CLASSES = 32  # classes of devices of one quote, those of the most accounts
QUOTED_OFFERS = 8  # the cheapest that fit: a quote's ceiling is the dearest of them

# --- market: the tape -----------------------------------------------------------------------------

MAX_MINUTE_CANDLES = 10_080  # kept of one class, the newest: a week of trading minutes
MAX_FIVE_MINUTE_CANDLES = 8_928  # 31 days
MAX_HOUR_CANDLES = 9_600  # 400 days
MAX_DAY_CANDLES = 7_320  # 20 years
MAX_PRICE_SNAPSHOTS = 20_000  # signed ones that are kept, the newest: 69 days of one in 5 minutes
MAX_SNAPSHOT_BYTES = 64 << 10  # one signed price snapshot file
MAX_SNAPSHOT_FILES = 10_000  # verified in one go
MAX_OFFER_FILTERS = 16  # conditions of one list of offers
DEFAULT_BOOK_LEVELS = 20
MAX_BOOK_LEVELS = 200  # of one side, in one answer
STREAMED_BOOK_LEVELS = 50  # of one side, followed by a stream
MAX_STREAM_SUBSCRIBERS = 2_000  # of one coordinator's market streams
MAX_STREAM_QUEUE_MESSAGES = 64  # waiting for one slow subscriber; then its stream is ended
MAX_STREAM_REPLAY_MESSAGES = 1_024  # of one class's book, kept for those who come back
MAX_STREAM_REPLAY_TRADES = 2_000  # repeated to a subscriber who comes back
MAX_STREAM_BATCH_TRADES = 500  # in one message
STREAM_SNAPSHOT_TRADES = 100  # newest trades that a new stream begins with
STREAM_INTERVAL_SECONDS = 0.25  # shortest time between two messages of one market stream
MAX_STREAM_BURST = 10  # subscribers that are written to at once, without a pause
STREAM_BURST_SECONDS = 0.04  # from one burst to the next: 250 messages a second a feed at most
STREAM_ALIVE_SECONDS = 15.0  # silence on a market stream before it says that nothing happened
STREAM_WRITE_SECONDS = 30.0  # for one message to leave for a subscriber who does not read

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
MAX_REASON_CHARACTERS = 1024  # why a worker gave a lease back
BENCHMARK_VERIFY_SECONDS = 120  # for recomputing one opening; then the challenge is void
AUDIT_STEP_SECONDS = 1800  # silence of the auditing engine; then it is ended and tried again
AUDIT_RETRY_MAX_SECONDS = 60.0  # between two tries of one job
MAX_INLINE_SEGMENTS = 500  # of a job in one message; ListSegments has all of them
MAX_INLINE_RECEIPT_BYTES = 3 << 20  # in one message; longer receipts are downloaded in chunks
MAX_CI_KEYS_PER_ACCOUNT = 100
MAX_WEBHOOKS_PER_ACCOUNT = 10
MAX_WEBHOOK_URL_CHARACTERS = 2048
MAX_PENDING_DELIVERIES = 1_000  # of one webhook; one more disables it
MAX_WEBHOOK_ATTEMPTS = 16  # of one message, 23 hours in all; then it is given up
MAX_WEBHOOK_FAILURES = 20  # attempts in a row that fail; then the webhook is disabled
MAX_WEBHOOK_RESPONSE_BYTES = 64 << 10  # read of an answer and ignored; the rest is not read
MAX_CONCURRENT_DELIVERIES = 16
WEBHOOK_SECONDS = 10.0  # one attempt: resolve, connect, send, answer
WEBHOOK_TEST_SECONDS = 15.0  # that the owner waits for a test's outcome
WEBHOOK_FIRST_PAUSE_SECONDS = 5  # after the first failed attempt; doubled after each
WEBHOOK_LONGEST_PAUSE_SECONDS = 6 * 3600
WEBHOOK_TOLERANCE_SECONDS = 300  # clock difference that a receiver accepts
KEPT_DELIVERIES = 100  # of one webhook, ended ones; older ones are forgotten

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
MAX_STATEMENT_TRANSFERS = 1_000_000  # of one statement with proofs
MAX_STATEMENT_FILE_BYTES = 1 << 30  # of one statement with proofs
MAX_STORED_HEADS = 256  # ledger heads of one coordinator that a client keeps, oldest go first
MAX_INPUT_FILES = 1_000_000  # samples of one folder
MAX_MODEL_BATCH = 1 << 20  # rows of one step of a model's job
DEFAULT_MODEL_BATCH = 32  # where the model leaves it open and the buyer does not say

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
MAX_CHECKSUM_LIST_BYTES = 64 << 20  # step checksums of one segment; larger: recomputed whole
MAX_SEGMENT_ROOTS_BYTES = 16 << 20  # roots of one segment's states, kept as it runs; else a replay
MAX_KEPT_LISTS_BYTES = 1 << 30  # checksum lists and roots of a worker's segments; oldest first
MAX_FLIPS = 2  # elements that flipped in one segment, outputs included
MAX_FLIP_REPLAYS = 1024  # single steps that are computed to find flipped bits
MAX_FLIP_PASSES = 8  # times a segment's steps beside those
MAX_FLIP_SUSPECTS = 128  # bits of the elements most wrong at the end that are tried
MAX_FLIP_ELEMENTS = 32  # such elements
MAX_WORKER_STEP_AUDITS = 64  # of its segments that a worker answers for, in turn
MAX_STEP_STATES_BYTES = 32 << 30  # states that the answer about one segment's drawn steps uploads
MAX_KEPT_OPENINGS = 50_000  # commitments of a worker that it can still open; oldest leases first
MAX_FORMER_KEYS = 16  # of one device, that a worker still answers for; the newest ones
KEPT_OPENING_SECONDS = 48 * 3600  # after the end of their lease
MAX_RECOVERED_LEASES = 256  # lease folders looked at when a worker starts
MAX_CALIBRATION_BYTES = 1 << 20  # cached admission and benchmark of one device
MAX_TRANSFER_CHUNK_BYTES = 1 << 20
MIN_LINK_SAMPLE_BYTES = 128 << 10  # a smaller transfer says nothing about the link's speed
LINK_SAMPLES = 15  # transfers each way whose median is the link's speed
MAX_PROGRAM_ARTIFACT_BYTES = 32 << 20  # as the engine's own limit on programs
MAX_ASK_CHARACTERS = 200  # of an owner's formula
MAX_ASK_BITS = 256  # of any value a formula comes to on its way
MAX_TARIFF_BYTES = 64 << 10  # a tariff's file
MAX_TARIFF_WINDOWS = 500  # of one tariff
MAX_SCHEDULE_SPANS = 50  # of one owner's hours
MAX_KEPT_CONTRADICTIONS = 32  # of the coordinator's, that a worker remembers; the newest
MAX_AGENT_STATE_BYTES = 1 << 20  # what a worker writes down about itself
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
SEGMENTS_READ_AT_ONCE = 16  # of a job, behind its verified ones
MAX_CACHED_PROGRAMS = 64  # programs whose cost is remembered
MAX_CALIBRATED_PROGRAMS = 128  # of one offer; step time and setup of a program count apart
MAX_ACCURACY_DELIVERIES = 5_000  # newest segments that a report of prediction errors looks at
MAX_ACCURACY_ROWS = 500  # of one report
MAX_ORDERS_AHEAD = 64  # oldest open orders that a quote on busy offers counts before its own
MAX_JOINED_HEARTBEATS = 1_000  # heartbeats of one command
MAX_LISTED_VALUES = 500  # of one list in a statement; SQLite may be built for 999 parameters
MAX_COMMANDS_PER_COMMIT = 256  # commands of one database transaction
MAX_QUEUED_COMMANDS = 4_096  # commands that wait for the writer
MAX_LEASES_PER_TICK = 64  # given in one round of matching; the next one goes on
MAX_SEARCHES_PER_TICK = 512  # begun in one round, each for orders that ask for the same
MAX_ORDERS_READ_PER_TICK = 500  # jobs that changed, in one round of matching
MAX_ORDER_PIECES = 1_024  # open ranges of one job kept in memory; later ones follow
MAX_EXACT_REASONS = 1_024  # offers decided one by one when reasons are counted
MAX_LEDGER_CHUNK = 1_000  # transfers of one round of statements
MAX_OVERDRAFT_NANO = 10**18  # below zero that one account of a flopcoin market may go
MAX_OVERDUE_PER_ROUND = 100  # pending transfers that one command voids because their time is over
MAX_RELEASED_PER_ROUND = 1_000  # segments whose held pay one command frees because time passed
MAX_OPEN_WITHDRAWALS = 20  # of one account
MAX_PROVED_TRANSFERS = 200  # of one page of a statement with proofs
PAYMENT_ANSWER_SECONDS = 30  # a payment provider waits so long for us, and we for its message
MAX_PAYMENT_BODY_BYTES = 16 << 10  # of one message of a payment provider
MAX_PAYMENT_CLOCK_SKEW_US = 5 * 60 * 1_000_000  # between a payment provider's clock and ours
MAX_COLLECTED_ARTIFACTS = 500  # freed in one database transaction
MAX_BACKUP_MANIFEST_BYTES = 256 << 20  # names of all artifacts of one backup

# --- price board ----------------------------------------------------------------------------------

BOARD_PAGE_ROWS = 50  # offers of one page
MAX_BOARD_PAGE_ROWS = 200  # offers of one JSON answer
MAX_BOARD_CANDLES = 2_000  # of one chart; the newest
BOARD_CACHE_SECONDS = 2.0  # one upstream answer serves every viewer this long
BOARD_HISTORY_CACHE_SECONDS = 10.0
BOARD_PATIENCE_SECONDS = 1.5  # how long a page with an older figure waits for a newer one
BOARD_CALL_SECONDS = 5.0  # deadline of one upstream call
MAX_BOARD_STALE_SECONDS = 900.0  # older figures are not shown while the coordinator is away
MAX_BOARD_CACHE_ENTRIES = 512
MAX_BOARD_UPSTREAM_CALLS = 32  # running or waiting; one more is refused
BOARD_UPSTREAM_THREADS = 4
MAX_BOARD_LISTENERS = 256  # browsers that follow live figures
MAX_BOARD_LISTENER_MESSAGES = 64  # waiting for one slow browser; then it is let go
BOARD_TAPE_TRADES = 60  # kept of each class, for new viewers
BOARD_STREAM_TRADES = 20  # first event of a live page
MAX_BOARD_SERIES = 64  # classes of work, each in one mode, that the tape keeps
MAX_BOARD_WATCHED_JOBS = 16  # jobs followed at the same time
MAX_BOARD_JOB_EVENTS = 200  # kept of one job's story
MAX_BOARD_LOSS_POINTS = 2_000  # kept of one scalar; then every second one goes
MAX_BOARD_JOBS = 200  # listed
MAX_BOARD_EARNING_OFFERS = 64  # devices whose sums by day are remembered
MAX_BOARD_QUERY_CHARACTERS = 2_048
MAX_BOARD_NAME_CHARACTERS = 120  # shown of a name somebody else chose
BOARD_STORY_SECONDS = 0.4  # a job's page waits this long for its story, when nobody looked before
BOARD_ALIVE_SECONDS = 15.0  # silence on a live connection
BOARD_RECONNECT_SECONDS = (1.0, 15.0)  # shortest and longest pause before the tape is asked again
