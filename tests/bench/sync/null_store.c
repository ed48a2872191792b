/* An S3 server that keeps nothing: it throws away what it is sent, remembers how much that was, and gives as
 * many zeros back. So a benchmark measures the client, which a real server takes ten times the CPU time of.
 * It checks no signature. For the loopback only.
 *
 *   cc -O2 -pthread null_store.c -o null_store -lssl -lcrypto
 *   null_store PORT [-d MS] [-c CERT.pem -k KEY.pem]
 *     -d   wait so long before each answer: a store that is far away
 *     -c, -k   speak TLS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)
#define BUCKETS 65536
#define PAGE 1000 /* keys of one listing */
#define TEXT 8192
#define ETAG "0123456789abcdef0123456789abcdef-1"

typedef unsigned long long count;

/* ---- what is stored: key -> size */

typedef struct object {
    struct object *next;
    count size;
    char key[];
} object;

typedef struct upload {
    struct upload *next;
    unsigned long id;
    count size;
} upload;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static object *objects[BUCKETS];
static size_t stored;
static upload *uploads;
static unsigned long last_upload;

static object **slot_of(const char *key) {
    unsigned hash = 5381;
    for (const char *at = key; *at; at++) hash = hash * 33 ^ (unsigned char)*at;
    object **slot = &objects[hash % BUCKETS];
    while (*slot && strcmp((*slot)->key, key)) slot = &(*slot)->next;
    return slot;
}

static void store(const char *key, count size) {
    pthread_mutex_lock(&lock);
    object **slot = slot_of(key);
    if (!*slot) {
        *slot = calloc(1, sizeof **slot + strlen(key) + 1);
        strcpy((*slot)->key, key);
        stored++;
    }
    (*slot)->size = size;
    pthread_mutex_unlock(&lock);
}

static int find(const char *key, count *size) {
    pthread_mutex_lock(&lock);
    object *found = *slot_of(key);
    if (found) *size = found->size;
    pthread_mutex_unlock(&lock);
    return found != NULL;
}

static void delete(const char *key) {
    pthread_mutex_lock(&lock);
    object **slot = slot_of(key), *found = *slot;
    if (found) {
        *slot = found->next;
        free(found);
        stored--;
    }
    pthread_mutex_unlock(&lock);
}

static unsigned long begin_upload(void) {
    pthread_mutex_lock(&lock);
    upload *made = calloc(1, sizeof *made);
    unsigned long id = made->id = ++last_upload;
    made->next = uploads;
    uploads = made;
    pthread_mutex_unlock(&lock);
    return id;
}

static count upload_size(unsigned long id, count more, int ended) {
    count size = 0;
    pthread_mutex_lock(&lock);
    for (upload **at = &uploads; *at; at = &(*at)->next)
        if ((*at)->id == id) {
            upload *found = *at;
            size = found->size += more;
            if (ended) {
                *at = found->next;
                free(found);
            }
            break;
        }
    pthread_mutex_unlock(&lock);
    return size;
}

/* ---- a connection */

typedef struct {
    int fd;
    SSL *tls;
    char *buffer;
    size_t start, end; /* what has arrived and was not used yet */
} connection;

static SSL_CTX *tls_context;
static int delay_ms;
static char *zeros;

static ssize_t receive(connection *c, void *into, size_t size, int flags) {
    if (c->tls) return SSL_read(c->tls, into, (int)size);
    ssize_t got;
    do got = recv(c->fd, into, size, flags);
    while (got < 0 && errno == EINTR);
    return got;
}

static int send_all(connection *c, const char *data, size_t size) {
    while (size) {
        size_t some = size > BUFFER ? BUFFER : size;
        ssize_t sent = c->tls ? SSL_write(c->tls, data, (int)some) : send(c->fd, data, some, MSG_NOSIGNAL);
        if (sent <= 0) {
            if (!c->tls && errno == EINTR) continue;
            return -1;
        }
        data += sent;
        size -= sent;
    }
    return 0;
}

static int fill(connection *c) {
    memmove(c->buffer, c->buffer + c->start, c->end - c->start);
    c->end -= c->start;
    c->start = 0;
    if (c->end >= BUFFER - 1) return -1;
    ssize_t got = receive(c, c->buffer + c->end, BUFFER - 1 - c->end, 0);
    if (got <= 0) return -1;
    c->end += got;
    return 0;
}

static int skip(connection *c, count size) {
    static __thread char *waste;
    if (!waste) waste = malloc(BUFFER);
    size_t here = c->end - c->start;
    if (here > size) here = size;
    c->start += here;
    size -= here;
    while (size) {
        ssize_t got = receive(c, waste, size > BUFFER ? BUFFER : size, MSG_TRUNC);
        if (got <= 0) return -1;
        size -= got;
    }
    return 0;
}

/* The line or head that ends in `mark`, taken out of what arrives; the caller frees it. */
static char *take_until(connection *c, const char *mark) {
    char *found;
    while (!(found = memmem(c->buffer + c->start, c->end - c->start, mark, strlen(mark))))
        if (fill(c)) return NULL;
    size_t size = found - (c->buffer + c->start);
    char *taken = strndup(c->buffer + c->start, size);
    c->start += size + strlen(mark);
    return taken;
}

static int skip_chunks(connection *c) {
    for (;;) {
        char *line = take_until(c, "\r\n");
        if (!line) return -1;
        count size = strtoull(line, NULL, 16);
        free(line);
        if (!size) break;
        if (skip(c, size + 2)) return -1;
    }
    for (;;) { /* trailers, to the empty line */
        char *line = take_until(c, "\r\n");
        if (!line) return -1;
        int last = !*line;
        free(line);
        if (last) return 0;
    }
}

/* ---- HTTP and S3 */

static const char *header(const char *head, const char *name, char *value, size_t room) {
    size_t length = strlen(name);
    for (const char *at = head; (at = strstr(at, "\r\n"));) {
        at += 2;
        if (strncasecmp(at, name, length) || at[length] != ':') continue;
        at += length + 1;
        while (*at == ' ') at++;
        snprintf(value, room, "%.*s", (int)strcspn(at, "\r"), at);
        return value;
    }
    return NULL;
}

static void unescape(char *to, const char *from, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        if (from[i] == '%' && i + 2 < size && sscanf(from + i + 1, "%2x", &byte) == 1) {
            *to++ = byte;
            i += 2;
        } else
            *to++ = from[i] == '+' ? ' ' : from[i];
    }
    *to = 0;
}

static int parameter(const char *query, const char *name, char *value, size_t room) {
    size_t length = strlen(name);
    if (value) *value = 0;
    for (const char *at = query; *at;) {
        const char *end = strchrnul(at, '&');
        if (!strncmp(at, name, length) && (at[length] == '=' || at + length == end)) {
            if (value && at[length] == '=' && (size_t)(end - at - length) < room)
                unescape(value, at + length + 1, end - at - length - 1);
            return 1;
        }
        at = *end ? end + 1 : end;
    }
    return 0;
}

static int answer(connection *c, const char *status, const char *more, const char *body, int bodiless) {
    char head[2048];
    size_t size = body ? strlen(body) : 0;
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %s\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-request-id: 0\r\n%s%s"
                          "Content-Length: %zu\r\n\r\n",
                          status, body ? "Content-Type: application/xml\r\n" : "", more, size);
    return send_all(c, head, length) || (size && !bodiless && send_all(c, body, size)) ? -1 : 0;
}

static int by_key(const void *a, const void *b) { return strcmp((*(object **)a)->key, (*(object **)b)->key); }

static void print_key(FILE *out, const char *key) {
    for (; *key; key++)
        if (isalnum((unsigned char)*key) || strchr("-_.~/", *key)) fputc(*key, out);
        else fprintf(out, "%%%02X", (unsigned char)*key);
}

/* Keys are always given as URLs write them, which is what every client asks for. No delimiters. */
static int list(connection *c, const char *bucket, const char *query) {
    char prefix[TEXT], after[TEXT], full[2 * TEXT];
    parameter(query, "prefix", prefix, sizeof prefix);
    if (!parameter(query, "continuation-token", after, sizeof after))
        parameter(query, parameter(query, "list-type", NULL, 0) ? "start-after" : "marker", after, sizeof after);
    snprintf(full, sizeof full, "%s/%s", bucket, prefix);
    size_t above = strlen(bucket) + 1, length = strlen(full), found = 0;

    pthread_mutex_lock(&lock);
    object **sorted = malloc((stored + 1) * sizeof *sorted);
    for (int i = 0; i < BUCKETS; i++)
        for (object *each = objects[i]; each; each = each->next)
            if (!strncmp(each->key, full, length) && strcmp(each->key + above, after) > 0) sorted[found++] = each;
    qsort(sorted, found, sizeof *sorted, by_key);

    char *body;
    size_t size, shown = found > PAGE ? PAGE : found;
    FILE *out = open_memstream(&body, &size);
    fprintf(out, "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
                 "<Name>%s</Name><MaxKeys>%d</MaxKeys><EncodingType>url</EncodingType>", bucket, PAGE);
    for (size_t i = 0; i < shown; i++) {
        fprintf(out, "<Contents><Key>");
        print_key(out, sorted[i]->key + above);
        fprintf(out, "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;" ETAG "&quot;</ETag>"
                     "<Size>%llu</Size><StorageClass>STANDARD</StorageClass></Contents>", sorted[i]->size);
    }
    fprintf(out, "<KeyCount>%zu</KeyCount><IsTruncated>%s</IsTruncated>", shown, found > shown ? "true" : "false");
    if (found > shown) {
        fprintf(out, "<NextContinuationToken>");
        print_key(out, sorted[shown - 1]->key + above);
        fprintf(out, "</NextContinuationToken>");
    }
    fprintf(out, "</ListBucketResult>");
    fclose(out);
    pthread_mutex_unlock(&lock);
    free(sorted);
    int failed = answer(c, "200 OK", "", body, 0);
    free(body);
    return failed;
}

static int get(connection *c, const char *key, const char *range, int only_head) {
    count size, first = 0, last;
    if (!find(key, &size))
        return answer(c, "404 Not Found", "", "<Error><Code>NoSuchKey</Code></Error>", only_head);
    last = size ? size - 1 : 0;
    if (*range && size) {
        sscanf(range, "bytes=%llu-%llu", &first, &last);
        if (first >= size) return answer(c, "416 Range Not Satisfiable", "", NULL, 0);
        if (last >= size) last = size - 1;
    }
    char head[1024];
    count left = size ? last - first + 1 : 0;
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %s\r\nAccept-Ranges: bytes\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                          "ETag: \"" ETAG "\"\r\nContent-Type: application/octet-stream\r\nContent-Length: %llu\r\n",
                          *range && size ? "206 Partial Content" : "200 OK", left);
    if (*range && size)
        length += snprintf(head + length, sizeof head - length, "Content-Range: bytes %llu-%llu/%llu\r\n", first, last, size);
    length += snprintf(head + length, sizeof head - length, "\r\n");
    if (send_all(c, head, length)) return -1;
    while (left && !only_head) {
        size_t some = left > BUFFER ? BUFFER : left;
        if (send_all(c, zeros, some)) return -1;
        left -= some;
    }
    return 0;
}

static int bucket_request(connection *c, const char *method, char *path, const char *query) {
    char *slash = strchr(path, '/');
    if (slash) *slash = 0;
    if (!strcmp(method, "DELETE")) return answer(c, "204 No Content", "", NULL, 0);
    if (strcmp(method, "GET")) return answer(c, "200 OK", "", NULL, 0);
    if (!*path) return answer(c, "200 OK", "", "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>", 0);
    if (parameter(query, "location", NULL, 0)) return answer(c, "200 OK", "", "<LocationConstraint/>", 0);
    if (parameter(query, "versioning", NULL, 0)) return answer(c, "200 OK", "", "<VersioningConfiguration/>", 0);
    return list(c, path, query);
}

static int serve(connection *c) {
    char method[16] = "", target[TEXT] = "", path[TEXT], value[TEXT], range[128] = "", id[64];
    char *head = take_until(c, "\r\n\r\n");
    if (!head) return -1;
    sscanf(head, "%15s %8191s", method, target);
    count body = header(head, "content-length", value, sizeof value) ? strtoull(value, NULL, 10) : 0, size = body;
    int chunked = header(head, "transfer-encoding", value, sizeof value) && strcasestr(value, "chunked");
    if (header(head, "x-amz-decoded-content-length", value, sizeof value)) size = strtoull(value, NULL, 10);
    header(head, "range", range, sizeof range);
    int expects = header(head, "expect", value, sizeof value) != NULL;
    int ends = header(head, "connection", value, sizeof value) && !strcasecmp(value, "close");
    free(head);
    if (expects && send_all(c, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return -1;
    if (chunked ? skip_chunks(c) : skip(c, body)) return -1;
    if (delay_ms) nanosleep(&(struct timespec){delay_ms / 1000, delay_ms % 1000 * 1000000L}, NULL);

    char *query = strchr(target, '?');
    if (query) *query++ = 0;
    else query = "";
    unescape(path, target + (*target == '/'), strlen(target + (*target == '/')));
    char *slash = strchr(path, '/');
    int failed, part = parameter(query, "uploadId", id, sizeof id);
    unsigned long upload_id = strtoul(id, NULL, 10);
    if (!slash || !slash[1])
        failed = bucket_request(c, method, path, query);
    else if (!strcmp(method, "PUT")) {
        if (part) upload_size(upload_id, size, 0);
        else store(path, size);
        failed = answer(c, "200 OK", "ETag: \"" ETAG "\"\r\n", NULL, 0);
    } else if (!strcmp(method, "POST") && part) {
        store(path, upload_size(upload_id, 0, 1));
        failed = answer(c, "200 OK", "", "<CompleteMultipartUploadResult><ETag>&quot;" ETAG "&quot;</ETag></CompleteMultipartUploadResult>", 0);
    } else if (!strcmp(method, "POST")) {
        char made[256];
        snprintf(made, sizeof made, "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>%lu</UploadId></InitiateMultipartUploadResult>", begin_upload());
        failed = answer(c, "200 OK", "", made, 0);
    } else if (!strcmp(method, "DELETE")) {
        if (part) upload_size(upload_id, 0, 1);
        else delete(path);
        failed = answer(c, "204 No Content", "", NULL, 0);
    } else
        failed = get(c, path, range, !strcmp(method, "HEAD"));
    return failed || ends ? -1 : 0;
}

static void *run(void *fd) {
    int on = 1;
    connection c = {.fd = (int)(long)fd, .buffer = malloc(BUFFER)};
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (tls_context) {
        c.tls = SSL_new(tls_context);
        SSL_set_fd(c.tls, c.fd);
    }
    if (!c.tls || SSL_accept(c.tls) > 0)
        while (!serve(&c)) {}
    if (c.tls) SSL_free(c.tls);
    close(c.fd);
    free(c.buffer);
    return NULL;
}

int main(int argc, char **argv) {
    const char *certificate = NULL, *key = NULL;
    int option, on = 1;
    while ((option = getopt(argc, argv, "d:c:k:")) > 0) {
        if (option == 'd') delay_ms = atoi(optarg);
        else if (option == 'c') certificate = optarg;
        else if (option == 'k') key = optarg;
        else return 2;
    }
    if (optind + 1 != argc) return 2;
    signal(SIGPIPE, SIG_IGN);
    zeros = calloc(1, BUFFER);
    if (certificate) {
        tls_context = SSL_CTX_new(TLS_server_method());
        if (SSL_CTX_use_certificate_chain_file(tls_context, certificate) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls_context, key, SSL_FILETYPE_PEM) != 1)
            return 1;
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in here = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[optind])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) {
        perror("null_store");
        return 1;
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && pthread_create(&thread, &small, run, (void *)(long)fd)) close(fd);
    }
}
