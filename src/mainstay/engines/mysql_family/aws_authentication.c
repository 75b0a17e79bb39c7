/* AWSAuthenticationPlugin: logins of MariaDB and MySQL with a token of IAM database authentication.

   The client is asked for its password in clear text (mysql_clear_password). What it sends goes, with the user's name,
   to the socket that the environment variable MAINSTAY_LOGIN_SOCKET names; whoever listens there answers with one
   byte. Everything but ALLOWED, within TIMEOUT_S, is a refusal: this decides nothing itself, and keeps nothing.

   Compiled without any header or library, for either server (`-DMYSQL`: for MySQL): the declarations are the part of the
   servers' plugin interfaces and of Linux's that is used here. Sources: MariaDB, "Authentication Plugin API"; MySQL
   manual, "Writing Authentication Plugins"; tcp(7), unix(7). This file is under the GNU General Public License,
   version 2, as the servers are that load it. */

typedef unsigned long size_t;
typedef unsigned long long u64;

char *getenv(const char *);
int socket(int, int, int);
int connect(int, const void *, unsigned);
int setsockopt(int, int, int, const void *, unsigned);
int getsockopt(int, int, int, void *, unsigned *);
long send(int, const void *, size_t, int);
long recv(int, void *, size_t, int);
int close(int);

enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000, MSG_NOSIGNAL = 0x4000 };
enum { SOL_SOCKET = 1, SO_RCVTIMEO = 20, SO_SNDTIMEO = 21, SOL_TCP = 6, TCP_INFO = 11 };
enum { PATH_BYTES = 108, TCP_INFO_BYTES = 256, BYTES_RECEIVED = 128 };

struct address { unsigned short family; char path[PATH_BYTES]; };
struct interval { long seconds, microseconds; };

struct connection { int protocol, socket, further[14]; };
enum { PROTOCOL_TCP = 1 };

struct vio {
  int (*read_packet)(struct vio *, unsigned char **);
  int (*write_packet)(struct vio *, const unsigned char *, int);
  void (*info)(struct vio *, struct connection *);
};
enum { ACCEPTED = -1, CREDENTIALS_REFUSED = 1, HANDSHAKE_FAILED = 2 };

struct login { const char *user; unsigned user_bytes; /* and more */ };

enum { AUTHENTICATION_PLUGIN = 7, LICENSE_GPL = 1, VERSION = 0x0100 };
enum { TIMEOUT_S = 5, PACKET_HEADER_BYTES = 4, ALLOWED = 'Y' };
static const char OVER_TLS[] = "T", IN_THE_CLEAR[] = "C";

/* How many bytes this connection has ever received, 0 if the kernel does not say. */
static u64 received(int peer) {
  union { unsigned char bytes[TCP_INFO_BYTES]; u64 numbers[TCP_INFO_BYTES / 8]; } told;
  unsigned known = TCP_INFO_BYTES;
  if (getsockopt(peer, SOL_TCP, TCP_INFO, &told, &known) || known < BYTES_RECEIVED + 8) return 0;
  return told.numbers[BYTES_RECEIVED / 8];
}

static int sent(int peer, const char *data, size_t bytes) {
  while (bytes) {
    long count = send(peer, data, bytes, MSG_NOSIGNAL);
    if (count <= 0) return 0;
    data += count;
    bytes -= count;
  }
  return 1;
}

static int reached(int peer) {
  struct interval patience = {TIMEOUT_S, 0};
  struct address place = {AF_UNIX, ""};
  const char *path = getenv("MAINSTAY_LOGIN_SOCKET");
  int length = 0;
  if (!path) return 0;
  while (path[length] && length < PATH_BYTES - 1) {
    place.path[length] = path[length];
    length++;
  }
  return !path[length] && !setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience)
      && !setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) && !connect(peer, &place, sizeof place);
}

/* Whether the login is allowed. Names and tokens hold no NUL, which ends each of them. */
static int allowed(const char *how, const struct login *login, const char *token, int token_bytes) {
  int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char answer = 0;
  if (peer < 0) return 0;
  if (!(reached(peer) && sent(peer, how, 1) && sent(peer, login->user, login->user_bytes) && sent(peer, "", 1)
        && sent(peer, token, token_bytes) && sent(peer, "", 1) && recv(peer, &answer, 1, 0) == 1)) answer = 0;
  close(peer);
  return answer == ALLOWED;
}

static int authenticate(struct vio *vio, struct login *login) {
  struct connection client = {0};
  unsigned char *token;
  int bytes, used = 0;
  u64 before;
  vio->info(vio, &client);
  before = received(client.socket);
  /* Always asked for: what the client may have sent by itself was counted before. */
  if (vio->write_packet(vio, (const unsigned char *)"", 0)) return HANDSHAKE_FAILED;
  bytes = vio->read_packet(vio, &token);
  if (bytes < 0) return HANDSHAKE_FAILED;
  while (used < bytes && token[used]) used++;
  /* Neither server tells a plugin in all its versions whether the connection is encrypted. But a packet that came as
     it is has as many bytes as were received; under TLS there are those of its record as well. */
  if (client.protocol != PROTOCOL_TCP || !before || received(client.socket) <= before + PACKET_HEADER_BYTES + bytes) {
    allowed(IN_THE_CLEAR, login, "", 0);
    return CREDENTIALS_REFUSED;
  }
  return allowed(OVER_TLS, login, (const char *)token, used) ? ACCEPTED : CREDENTIALS_REFUSED;
}

#ifdef MYSQL

/* The stored string is RDS, or nothing; passwords there are none. */
static int generate(char *stored, unsigned *stored_bytes, const char *password, unsigned bytes) {
  if (bytes) return 1;
  *stored_bytes = 0;
  return 0;
}

static int validate(char *const stored, unsigned bytes) {
  return bytes && !(bytes == 3 && stored[0] == 'R' && stored[1] == 'D' && stored[2] == 'S');
}

static int set_salt(const char *stored, unsigned bytes, unsigned char *salt, unsigned char *salt_bytes) {
  *salt_bytes = 0;
  return 0;
}

static const struct {
  int interface;
  const char *client_plugin;
  int (*authenticate)(struct vio *, struct login *);
  int (*generate)(char *, unsigned *, const char *, unsigned);
  int (*validate)(char *const, unsigned);
  int (*set_salt)(const char *, unsigned, unsigned char *, unsigned char *);
  unsigned long flags;
  void *compare;
} handler = {0x0201, "mysql_clear_password", authenticate, generate, validate, set_salt, 0, 0};

struct plugin {
  int type;
  const void *info;
  const char *name, *author, *description;
  int license;
  void *init, *check_uninstall, *deinit;
  unsigned version;
  void *status, *variables, *reserved;
  unsigned long flags;
};

int _mysql_plugin_interface_version_ = 0x010b;
int _mysql_sizeof_struct_st_plugin_ = sizeof(struct plugin);
struct plugin _mysql_plugin_declarations_[] = {
  {AUTHENTICATION_PLUGIN, &handler, "AWSAuthenticationPlugin", "Mainstay", "IAM database authentication", LICENSE_GPL,
   0, 0, 0, VERSION, 0, 0, 0, 0},
  {0},
};

#else

static const struct {
  int interface;
  const char *client_plugin;
  int (*authenticate)(struct vio *, struct login *);
  void *hash_password, *preprocess_hash;
} handler = {0x0200, "mysql_clear_password", authenticate, 0, 0};

struct plugin {
  int type;
  const void *info;
  const char *name, *author, *description;
  int license;
  void *init, *deinit;
  unsigned version;
  void *status, *variables;
  const char *version_text;
  unsigned maturity;
};
enum { STABLE = 5 };

int _maria_plugin_interface_version_ = 0x010e;
int _maria_sizeof_struct_st_plugin_ = sizeof(struct plugin);
struct plugin _maria_plugin_declarations_[] = {
  {AUTHENTICATION_PLUGIN, &handler, "AWSAuthenticationPlugin", "Mainstay", "IAM database authentication", LICENSE_GPL,
   0, 0, VERSION, 0, 0, "1.0", STABLE},
  {0},
};

#endif
