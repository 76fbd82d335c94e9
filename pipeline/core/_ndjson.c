/* NDJSON to columns: one pass over a body of events, one object a line, to an Arrow array of the wanted fields.
 *
 *   Scanner(fields)          fields: sequence of (name as UTF-8, kind, nullable, wanted); kinds below
 *   Scanner.scan(body)       Scanned, or None: this body is for the careful path, which alone judges and explains
 *
 * Invariant: what is taken here, the careful path (msgspec) takes as well, with the same values. So anything unusual
 * gives the whole body back: an undeclared type, a key twice, an escaped key, a number beyond 18 digits, a blank line,
 * a carriage return before a newline, a row of more than MAX_ROW bytes, more than MAX_DEPTH levels, text that is not UTF-8.
 *
 * Space after the last row is nothing. The strings of the array point into the body where they hold no escape; the array keeps the body alive.
 */
#define _GNU_SOURCE /* strtod_l */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <locale.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define MAX_FIELDS 64      /* bits of a row's `seen` */
#define MAX_ROW 1000000    /* as MAX_ROW_BYTES of pipeline/core/validation.py */
#define MAX_DEPTH 64       /* as MAX_DEPTH there */
#define MAX_BODY 0x7fffffff /* offsets of string views are 32 bits */

enum kind { STRING = 's', INT = 'i', FLOAT = 'f', BOOL = 'b', TIMESTAMP = 't', LIST_OF = 'l' };

/* --- the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html) */

struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children, *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

#define ARROW_FLAG_NULLABLE 2

/* --- columns */

typedef struct {
    char *name;        /* for keys: `"name"` with its quotes, where it needs no escape */
    size_t name_length;
    char kind, item;   /* item: of a list */
    bool nullable, wanted;
    int column;        /* among the wanted, or -1 */
} Field;

typedef struct {
    const Field *field;
    void *values;        /* int64, double, bitmap of bools, or string views of 16 bytes */
    uint8_t *validity;   /* bitmap, NULL while no value was null */
    int64_t nulls;
    char form;           /* of a timestamp: 'n' numbers, 't' texts (read to milliseconds), 0 nothing yet */
} Column;

typedef struct Store {
    _Atomic int64_t references; /* the Scanned object, and each column that was handed on */
    PyObject *scanner;          /* owns the names of the fields */
    Py_buffer view;             /* the body, which string views point into */
    struct Store *next;         /* among the dead */
    int64_t n, undeclared;
    int64_t *starts;    /* n + 1: where each line begins; the last one is the body's length + 1 */
    int n_columns;
    Column *columns;
    char *unescaped;    /* strings that held escapes */
    int64_t unescaped_size, unescaped_room;
} Store;

typedef struct {
    int n_fields, n_columns;
    Field *fields;
} Plan;

/* Columns are given back by threads of polars that do not hold the GIL, and must not wait for it: somebody who holds it
 * may wait for them. So a store whose last column is gone waits here until the interpreter comes by. */
static _Atomic(Store *) dead;

static int bury(void *unused) { /* with the GIL */
    (void)unused;
    Store *store = atomic_exchange(&dead, NULL);
    while (store != NULL) {
        Store *next = store->next;
        PyBuffer_Release(&store->view);
        Py_DECREF(store->scanner);
        free(store);
        store = next;
    }
    return 0;
}

static void release_store(Store *store) { /* with or without the GIL */
    if (atomic_fetch_sub(&store->references, 1) > 1) return;
    for (int i = 0; i < store->n_columns; i++) {
        free(store->columns[i].values);
        free(store->columns[i].validity);
    }
    free(store->columns);
    free(store->starts);
    free(store->unescaped);
    store->next = atomic_load(&dead);
    while (!atomic_compare_exchange_weak(&dead, &store->next, store)) {
    }
}

/* --- reading: every function returns the place after what it read, or NULL to give the body back */

typedef struct {
    const char *begin, *end;
    Store *store;
    const Plan *plan;
} Scan;

static inline const char *skip_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    return p;
}

static const char *after_utf8(const char *text, const char *end) {
    const uint8_t *p = (const uint8_t *)text, *e = (const uint8_t *)end;
    if (p[0] < 0xC2) return NULL;
    if (p[0] < 0xE0) return e - p >= 2 && (p[1] & 0xC0) == 0x80 ? text + 2 : NULL;
    if (p[0] < 0xF0) {
        if (e - p < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80) return NULL;
        if (p[0] == 0xE0 && p[1] < 0xA0) return NULL; /* overlong */
        if (p[0] == 0xED && p[1] >= 0xA0) return NULL; /* a surrogate */
        return text + 3;
    }
    if (p[0] > 0xF4 || e - p < 4) return NULL;
    if ((p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80 || (p[3] & 0xC0) != 0x80) return NULL;
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] >= 0x90)) return NULL;
    return text + 4;
}

/* The first byte from p on that is a quote, a backslash, a control character or not ASCII. */
static inline const char *plain_end(const char *p, const char *end) {
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
    while (end - p >= 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)p);
        /* signed compare: bytes from 0x80 on are below the space, as control characters are */
        __m128i special = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(block, quote), _mm_cmpeq_epi8(block, slash)),
                                       _mm_cmplt_epi8(block, space));
        int mask = _mm_movemask_epi8(special);
        if (mask) return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (signed char)*p >= 0x20) p++;
    return p;
}

/* Find the end of a string that begins at p (after its quote). */
static inline const char *string_end(const char *p, const char *end, bool *escaped) {
    for (;;) {
        p = plain_end(p, end);
        if (p >= end) return NULL;
        if (*p == '"') return p;
        if (*p == '\\') {
            *escaped = true;
            if (end - p < 2) return NULL;
            p += 2; /* whether the escape is one is seen when it is taken, or by check_escapes */
        } else if ((p = (signed char)*p < 0 ? after_utf8(p, end) : NULL) == NULL) {
            return NULL;
        }
    }
}

static int hex4(const char *p, const char *end) {
    int value = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Write a string without its escapes to `out` (as long as the text at most); return its length, or -1. */
static int64_t unescape(const char *p, const char *end, char *out) {
    char *begin = out;
    while (p < end) {
        if (*p != '\\') {
            *out++ = *p++;
            continue;
        }
        char c = p[1];
        p += 2;
        switch (c) {
            case '"': case '\\': case '/': *out++ = c; break;
            case 'b': *out++ = '\b'; break;
            case 'f': *out++ = '\f'; break;
            case 'n': *out++ = '\n'; break;
            case 'r': *out++ = '\r'; break;
            case 't': *out++ = '\t'; break;
            case 'u': {
                int code = hex4(p, end);
                if (code < 0) return -1;
                p += 4;
                if (code >= 0xD800 && code < 0xE000) {
                    int low = code < 0xDC00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
                    if (low < 0xDC00 || low >= 0xE000) return -1;
                    p += 6;
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                if (code < 0x80) {
                    *out++ = (char)code;
                } else if (code < 0x800) {
                    *out++ = (char)(0xC0 | code >> 6);
                    *out++ = (char)(0x80 | (code & 0x3F));
                } else if (code < 0x10000) {
                    *out++ = (char)(0xE0 | code >> 12);
                    *out++ = (char)(0x80 | (code >> 6 & 0x3F));
                    *out++ = (char)(0x80 | (code & 0x3F));
                } else {
                    *out++ = (char)(0xF0 | code >> 18);
                    *out++ = (char)(0x80 | (code >> 12 & 0x3F));
                    *out++ = (char)(0x80 | (code >> 6 & 0x3F));
                    *out++ = (char)(0x80 | (code & 0x3F));
                }
                break;
            }
            default: return -1;
        }
    }
    return out - begin;
}

static bool room_for_unescaped(Store *store, int64_t more) {
    if (store->unescaped_size + more > MAX_BODY) return false;
    if (store->unescaped_size + more > store->unescaped_room) {
        int64_t room = 2 * store->unescaped_room + more + 1024;
        char *grown = realloc(store->unescaped, (size_t)room);
        if (grown == NULL) return false;
        store->unescaped = grown;
        store->unescaped_room = room;
    }
    return true;
}

/* A string view (https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-view-layout). */
typedef struct {
    int32_t length;
    char prefix[4];
    int32_t buffer, offset;
} View;

static void set_view(View *view, const char *text, int64_t length, int32_t buffer, int64_t offset) {
    memset(view, 0, sizeof *view);
    view->length = (int32_t)length;
    if (length <= 12) {
        memcpy(view->prefix, text, (size_t)length);
    } else {
        memcpy(view->prefix, text, 4);
        view->buffer = buffer;
        view->offset = (int32_t)offset;
    }
}

static const char *read_string(Scan *scan, const char *p, Column *column, int64_t row) {
    bool escaped = false;
    const char *text = p + 1, *close = string_end(text, scan->end, &escaped);
    if (close == NULL) return NULL;
    if (escaped) { /* also where it is not wanted: its escapes must be right */
        Store *store = scan->store;
        if (!room_for_unescaped(store, close - text)) return NULL;
        char *out = store->unescaped + store->unescaped_size;
        int64_t length = unescape(text, close, out);
        if (length < 0) return NULL;
        if (column != NULL) {
            set_view((View *)column->values + row, out, length, 1, store->unescaped_size);
            store->unescaped_size += length;
        }
    } else if (column != NULL) {
        set_view((View *)column->values + row, text, close - text, 0, text - scan->begin);
    }
    return close + 1;
}

static inline bool ends_value(const char *p, const char *end) {
    return p < end && (*p == ',' || *p == '}' || *p == ']' || *p == ' ' || *p == '\t');
}

static const char *read_int(const char *p, const char *end, int64_t *value) {
    bool negative = *p == '-';
    const char *digits = p += negative;
    uint64_t found = 0;
    while (p < end && *p >= '0' && *p <= '9' && p - digits < 19) found = found * 10 + (uint64_t)(*p++ - '0');
    if (p == digits || p - digits > 18 || (*digits == '0' && p - digits > 1) || !ends_value(p, end)) return NULL;
    *value = negative ? -(int64_t)found : (int64_t)found;
    return p;
}

static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static locale_t C_LOCALE; /* a point is a point whatever the process's locale says */

/* The double of a checked number whose end is known, correctly rounded by the C library. */
static bool by_library(const char *p, const char *end, double *value) {
    char text[64];
    if (end - p >= (int64_t)sizeof text) return false;
    memcpy(text, p, (size_t)(end - p));
    text[end - p] = 0;
    *value = strtod_l(text, NULL, C_LOCALE);
    return isfinite(*value);
}

/* A JSON number. A mantissa of up to 2^53 times an exact power of ten is rounded once, so it is exact (Clinger 1990). */
static const char *read_float(const char *p, const char *end, double *value) {
    const char *begin = p;
    bool negative = *p == '-';
    const char *digits = p += negative;
    uint64_t mantissa = 0; /* right while there are at most 19 digits */
    int count = 0, exponent = 0;
    while (p < end && *p >= '0' && *p <= '9') mantissa = mantissa * 10 + (uint64_t)(*p++ - '0'), count++;
    if (p == digits || (*digits == '0' && p - digits > 1)) return NULL;
    bool whole = true;
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        whole = false;
        while (p < end && *p >= '0' && *p <= '9') mantissa = mantissa * 10 + (uint64_t)(*p++ - '0'), count++;
        if (p == fraction) return NULL;
        exponent = -(int)(p - fraction);
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        whole = false;
        p++;
        bool below = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        const char *power = p;
        int found = 0;
        while (p < end && *p >= '0' && *p <= '9' && p - power < 4) found = found * 10 + (*p++ - '0');
        if (p == power) return NULL;
        exponent += below ? -found : found;
    }
    if (!ends_value(p, end)) return NULL;
    if (negative && whole && mantissa == 0) return NULL; /* -0: an integer to some, a double to others */
    if (count > 18 || mantissa > (1ull << 53) || exponent < -22 || exponent > 22) {
        return by_library(begin, p, value) ? p : NULL;
    }
    double found = exponent < 0 ? (double)mantissa / POWERS[-exponent] : (double)mantissa * POWERS[exponent];
    *value = negative ? -found : found;
    return p;
}

static bool is_number_start(char c) { return c == '-' || (c >= '0' && c <= '9'); }

/* --- times as text: YYYY-MM-DDTHH:MM:SS[.fraction](Z|+HH:MM|-HH:MM), floored to milliseconds */

static int two(const char *p) {
    return p[0] >= '0' && p[0] <= '9' && p[1] >= '0' && p[1] <= '9' ? (p[0] - '0') * 10 + p[1] - '0' : -1;
}

/* Days from 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */
static int64_t days_from_civil(int64_t y, int m, int d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t yoe = y - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static const char *read_time(const char *p, const char *end, int64_t *value) {
    static const int DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    p++; /* the quote */
    if (end - p < 21) return NULL;
    int century = two(p), years = two(p + 2), month = two(p + 5), day = two(p + 8), hour = two(p + 11), minute = two(p + 14),
        second = two(p + 17);
    if (century < 0 || years < 0 || p[4] != '-' || p[7] != '-' || (p[10] != 'T' && p[10] != 't' && p[10] != ' ') ||
        p[13] != ':' || p[16] != ':' || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 ||
        minute > 59 || second < 0 || second > 59)
        return NULL;
    int year = century * 100 + years;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year < 1 || day > DAYS[month - 1] + (month == 2 && leap)) return NULL;
    p += 19;
    int64_t ms = 0;
    if (*p == '.') {
        const char *fraction = ++p;
        while (p < end && *p >= '0' && *p <= '9') {
            if (p - fraction < 3) ms = ms * 10 + (*p - '0');
            p++;
        }
        if (p == fraction || p - fraction > 9) return NULL;
        for (int64_t given = p - fraction; given < 3; given++) ms *= 10;
    }
    int64_t offset_s = 0;
    if (p < end && (*p == 'Z' || *p == 'z')) {
        p++;
    } else if (end - p >= 7 && (*p == '+' || *p == '-')) {
        int hours = two(p + 1), minutes = two(p + 4);
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || p[3] != ':') return NULL;
        offset_s = (*p == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
        p += 6;
    } else {
        return NULL; /* without an offset it is in the field's zone: not ours to know */
    }
    if (p >= end || *p != '"') return NULL;
    int64_t seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset_s;
    *value = seconds * 1000 + ms;
    if (*value < -62135596800000 || *value > 253402300799999) return NULL; /* out of the years 1 to 9999 */
    return p + 1;
}

/* --- values that nobody wants: they have to be right JSON all the same */

static const char *skip_value(Scan *scan, const char *p, int depth);

static const char *skip_items(Scan *scan, const char *p, int depth, bool keyed) {
    const char *end = scan->end;
    const char close = keyed ? '}' : ']';
    if (depth >= MAX_DEPTH) return NULL;
    p = skip_space(p + 1, end);
    if (p < end && *p == close) return p + 1;
    for (;;) {
        if (keyed) {
            if (p >= end || *p != '"' || (p = read_string(scan, p, NULL, 0)) == NULL) return NULL;
            p = skip_space(p, end);
            if (p >= end || *p != ':') return NULL;
            p = skip_space(p + 1, end);
        }
        if ((p = skip_value(scan, p, depth + 1)) == NULL) return NULL;
        p = skip_space(p, end);
        if (p >= end) return NULL;
        if (*p == close) return p + 1;
        if (*p != ',') return NULL;
        p = skip_space(p + 1, end);
    }
}

static const char *after_word(const char *p, const char *end, const char *word, size_t length) {
    return (size_t)(end - p) > length && memcmp(p, word, length) == 0 && ends_value(p + length, end) ? p + length : NULL;
}

static const char *skip_value(Scan *scan, const char *p, int depth) {
    double ignored;
    if (p >= scan->end) return NULL;
    switch (*p) {
        case '"': return read_string(scan, p, NULL, 0);
        case '{': return skip_items(scan, p, depth, true);
        case '[': return skip_items(scan, p, depth, false);
        case 't': return after_word(p, scan->end, "true", 4);
        case 'f': return after_word(p, scan->end, "false", 5);
        case 'n': return after_word(p, scan->end, "null", 4);
        default: return is_number_start(*p) ? read_float(p, scan->end, &ignored) : NULL;
    }
}

/* --- rows */

static bool set_null(Column *column, int64_t row, int64_t n) {
    if (column->validity == NULL) {
        size_t bytes = (size_t)(n + 7) / 8 + 8;
        if ((column->validity = malloc(bytes)) == NULL) return false;
        memset(column->validity, 0xFF, bytes);
    }
    column->validity[row >> 3] &= (uint8_t)~(1u << (row & 7));
    column->nulls++;
    if (column->field->kind == STRING) memset((View *)column->values + row, 0, sizeof(View));
    else if (column->field->kind != BOOL) ((int64_t *)column->values)[row] = 0;
    return true;
}

static const char *read_scalar(Scan *scan, const char *p, char kind, Column *column, int64_t row) {
    const char *end = scan->end;
    int64_t number = 0;
    double real = 0;
    switch (kind) {
        case STRING: return *p == '"' ? read_string(scan, p, column, row) : NULL;
        case INT:
            if (!is_number_start(*p) || (p = read_int(p, end, &number)) == NULL) return NULL;
            if (column != NULL) ((int64_t *)column->values)[row] = number;
            return p;
        case FLOAT:
            if (!is_number_start(*p) || (p = read_float(p, end, &real)) == NULL) return NULL;
            if (column != NULL) ((double *)column->values)[row] = real;
            return p;
        case BOOL: {
            bool is_true = *p == 't';
            if ((p = is_true ? after_word(p, end, "true", 4) : after_word(p, end, "false", 5)) == NULL) return NULL;
            if (column != NULL && is_true) ((uint8_t *)column->values)[row >> 3] |= (uint8_t)(1u << (row & 7));
            return p;
        }
        case TIMESTAMP: {
            char form = *p == '"' ? 't' : 'n';
            if (form == 'n' && !is_number_start(*p)) return NULL;
            if ((p = form == 't' ? read_time(p, end, &number) : read_int(p, end, &number)) == NULL) return NULL;
            if (column != NULL) {
                if (column->form != form && column->form != 0) return NULL; /* a mixture has one meaning a value */
                column->form = form;
                ((int64_t *)column->values)[row] = number;
            }
            return p;
        }
        default: return NULL;
    }
}

static const char *read_list(Scan *scan, const char *p, char item) {
    const char *end = scan->end;
    if (*p != '[') return NULL;
    p = skip_space(p + 1, end);
    if (p < end && *p == ']') return p + 1;
    for (;;) {
        if (p >= end || (p = read_scalar(scan, p, item, NULL, 0)) == NULL) return NULL;
        p = skip_space(p, end);
        if (p >= end) return NULL;
        if (*p == ']') return p + 1;
        if (*p != ',') return NULL;
        p = skip_space(p + 1, end);
    }
}

static const char *read_field(Scan *scan, const char *p, const Field *field, int64_t row) {
    Column *column = field->column < 0 ? NULL : scan->store->columns + field->column;
    if (*p == 'n') {
        if (!field->nullable || (p = after_word(p, scan->end, "null", 4)) == NULL) return NULL;
        return column == NULL || set_null(column, row, scan->store->n) ? p : NULL;
    }
    return field->kind == LIST_OF ? read_list(scan, p, field->item) : read_scalar(scan, p, field->kind, column, row);
}

/* Whether two names, quotes included, are the same; words overlap, since a call of memcmp costs more than it does. */
static inline bool is_same(const char *a, const char *b, size_t length) {
    uint64_t one, other;
    if (length < 8) {
        while (length > 0 && a[length - 1] == b[length - 1]) length--;
        return length == 0;
    }
    for (size_t at = 0;; at = at + 16 <= length ? at + 8 : length - 8) {
        memcpy(&one, a + at, 8);
        memcpy(&other, b + at, 8);
        if (one != other) return false;
        if (at + 8 == length) return true;
    }
}

/* The field whose key begins at p: `next` where rows have their fields in one order, as they nearly always do. */
static const char *read_key(Scan *scan, const char *p, int next, int *found) {
    const Plan *plan = scan->plan;
    const char *end = scan->end;
    *found = -1;
    for (int i = 0; i < plan->n_fields; i++) {
        const Field *field = plan->fields + (next + i) % plan->n_fields;
        if ((size_t)(end - p) > field->name_length && is_same(p, field->name, field->name_length)) {
            *found = (next + i) % plan->n_fields;
            return p + field->name_length;
        }
    }
    bool escaped = false;
    const char *close = string_end(p + 1, end, &escaped);
    return close == NULL || escaped ? NULL : close + 1; /* an escaped key may be a declared one */
}

static const char *read_row(Scan *scan, const char *p, int64_t row) {
    const Plan *plan = scan->plan;
    const char *end = scan->end;
    uint64_t seen = 0;
    bool undeclared = false;
    int next = 0, found;
    if (*p != '{') return NULL;
    p = skip_space(p + 1, end);
    if (p < end && *p == '}') {
        p++;
    } else {
        for (;;) {
            if (p >= end || *p != '"' || (p = read_key(scan, p, next, &found)) == NULL) return NULL;
            p = skip_space(p, end);
            if (p >= end || *p != ':') return NULL;
            p = skip_space(p + 1, end);
            if (p >= end) return NULL;
            if (found >= 0) {
                if (seen >> found & 1) return NULL;
                seen |= 1ull << found;
                p = read_field(scan, p, plan->fields + found, row);
                next = found + 1;
            } else {
                undeclared = true;
                p = skip_value(scan, p, 1);
            }
            if (p == NULL) return NULL;
            p = skip_space(p, end);
            if (p >= end) return NULL;
            if (*p == '}') {
                p++;
                break;
            }
            if (*p != ',') return NULL;
            p = skip_space(p + 1, end);
        }
    }
    for (int i = 0; seen != ~0ull >> (MAX_FIELDS - plan->n_fields) && i < plan->n_fields; i++) {
        const Field *field = plan->fields + i;
        if (seen >> i & 1) continue;
        if (!field->nullable) return NULL;
        if (field->column >= 0 && !set_null(scan->store->columns + field->column, row, scan->store->n)) return NULL;
    }
    scan->store->undeclared += undeclared;
    return p;
}

static bool read_rows(Scan *scan) {
    Store *store = scan->store;
    const char *p = scan->begin, *end = scan->end;
    for (int64_t row = 0; row < store->n; row++) {
        store->starts[row] = p - scan->begin;
        const char *after = read_row(scan, p, row);
        if (after == NULL || after - p > MAX_ROW) return false;
        if (row + 1 < store->n) {
            if (after >= end || *after != '\n') return false;
            after++;
        }
        p = after;
    }
    store->starts[store->n] = end - scan->begin + 1;
    return p == end;
}

static int64_t count_lines(const char *p, const char *end) {
    int64_t n = 1;
    while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) n++, p++;
    return n;
}

static size_t value_bytes(char kind, int64_t n) {
    size_t rows = (size_t)n;
    return kind == STRING ? rows * sizeof(View) : kind == BOOL ? rows / 8 + 8 : rows * 8;
}

static bool make_columns(Store *store, const Plan *plan) {
    store->starts = malloc((size_t)(store->n + 1) * sizeof(int64_t));
    store->columns = calloc((size_t)plan->n_columns + 1, sizeof(Column));
    if (store->starts == NULL || store->columns == NULL) return false;
    store->n_columns = plan->n_columns;
    for (int i = 0; i < plan->n_fields; i++) {
        const Field *field = plan->fields + i;
        if (field->column < 0) continue;
        Column *column = store->columns + field->column;
        column->field = field;
        size_t bytes = value_bytes(field->kind, store->n);
        column->values = field->kind == BOOL ? calloc(bytes, 1) : malloc(bytes + 8);
        if (column->values == NULL) return false;
    }
    return true;
}

/* --- Arrow out */

typedef struct {
    Store *store;
    const void *buffers[5]; /* validity, views, the two texts they point into, the sizes of these */
    int64_t sizes[2];
} Child;

static void release_child_schema(struct ArrowSchema *schema) { schema->release = NULL; }

static void release_schema(struct ArrowSchema *schema) {
    for (int64_t i = 0; i < schema->n_children; i++) {
        struct ArrowSchema *child = schema->children[i];
        if (child->release != NULL) child->release(child);
        free((char *)child->name);
        free(child);
    }
    free(schema->children);
    schema->release = NULL;
}

static void release_child(struct ArrowArray *array) {
    Child *child = array->private_data;
    release_store(child->store);
    Py_AddPendingCall(bury, NULL); /* where its queue is full, the next scan does it */
    free(child);
    array->release = NULL;
}

static void release_array(struct ArrowArray *array) {
    for (int64_t i = 0; i < array->n_children; i++) {
        struct ArrowArray *child = array->children[i];
        if (child->release != NULL) child->release(child);
        free(child);
    }
    free(array->children);
    free((void *)array->buffers);
    array->release = NULL;
}

static void free_schema_capsule(PyObject *capsule) {
    struct ArrowSchema *schema = PyCapsule_GetPointer(capsule, "arrow_schema");
    if (schema->release != NULL) schema->release(schema);
    free(schema);
}

static void free_array_capsule(PyObject *capsule) {
    struct ArrowArray *array = PyCapsule_GetPointer(capsule, "arrow_array");
    if (array->release != NULL) array->release(array);
    free(array);
}

static const char *format_of(char kind) {
    switch (kind) {
        case STRING: return "vu";
        case FLOAT: return "g";
        case BOOL: return "b";
        default: return "l";
    }
}

static char *plain_name(const Field *field) { /* the key without its quotes */
    char *name = malloc(field->name_length);
    if (name != NULL) {
        memcpy(name, field->name + 1, field->name_length - 2);
        name[field->name_length - 2] = 0;
    }
    return name;
}

static bool fill_schema(struct ArrowSchema *schema, const Store *store) {
    schema->format = "+s";
    schema->name = "";
    schema->release = release_schema;
    schema->children = calloc((size_t)store->n_columns + 1, sizeof(void *));
    if (schema->children == NULL) return false;
    for (int i = 0; i < store->n_columns; i++) {
        struct ArrowSchema *child = calloc(1, sizeof *child);
        if (child == NULL) return false;
        schema->children[schema->n_children++] = child;
        child->format = format_of(store->columns[i].field->kind);
        child->flags = ARROW_FLAG_NULLABLE;
        child->release = release_child_schema;
        if ((child->name = plain_name(store->columns[i].field)) == NULL) return false;
    }
    return true;
}

static bool fill_array(struct ArrowArray *array, Store *store) {
    array->length = store->n;
    array->n_buffers = 1;
    array->release = release_array;
    array->buffers = calloc(1, sizeof(void *));
    array->children = calloc((size_t)store->n_columns + 1, sizeof(void *));
    if (array->children == NULL || array->buffers == NULL) return false;
    for (int i = 0; i < store->n_columns; i++) {
        Column *column = store->columns + i;
        struct ArrowArray *out = calloc(1, sizeof *out);
        Child *child = calloc(1, sizeof *child);
        if (out == NULL || child == NULL) {
            free(out);
            free(child);
            return false;
        }
        array->children[array->n_children++] = out;
        child->store = store;
        child->buffers[0] = column->validity;
        child->buffers[1] = column->values;
        out->n_buffers = 2;
        if (column->field->kind == STRING) {
            child->buffers[2] = store->view.buf;
            child->buffers[3] = store->unescaped_size ? (const void *)store->unescaped : (const void *)"";
            child->buffers[4] = child->sizes;
            child->sizes[0] = store->view.len;
            child->sizes[1] = store->unescaped_size;
            out->n_buffers = 5;
        }
        out->buffers = child->buffers;
        out->length = store->n;
        out->null_count = column->nulls;
        out->private_data = child;
        out->release = release_child;
        atomic_fetch_add(&store->references, 1);
    }
    return true;
}

/* --- Python */

typedef struct {
    PyObject_HEAD
    Store *store;
} Scanned;

static PyObject *scanned_arrow(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"requested_schema", NULL};
    PyObject *requested = NULL; /* a request, which a producer need not follow */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &requested)) return NULL;
    Store *store = ((Scanned *)self)->store;
    struct ArrowSchema *schema = calloc(1, sizeof *schema);
    struct ArrowArray *array = calloc(1, sizeof *array);
    bool made = schema != NULL && array != NULL && fill_schema(schema, store) && fill_array(array, store);
    PyObject *first = made ? PyCapsule_New(schema, "arrow_schema", free_schema_capsule) : NULL;
    PyObject *second = first != NULL ? PyCapsule_New(array, "arrow_array", free_array_capsule) : NULL;
    if (second != NULL) {
        PyObject *pair = PyTuple_Pack(2, first, second);
        Py_DECREF(first);
        Py_DECREF(second);
        return pair;
    }
    if (first != NULL) Py_DECREF(first); /* frees the schema */
    else if (schema != NULL) {
        if (schema->release != NULL) schema->release(schema);
        free(schema);
    }
    if (array != NULL) {
        if (array->release != NULL) array->release(array);
        free(array);
    }
    return PyErr_NoMemory();
}

/* crc32 as zlib's, four bytes a step: the partition of a key must be the same for whoever computes it. */
static uint32_t CRC[4][256];

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        CRC[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int k = 1; k < 4; k++) CRC[k][i] = CRC[k - 1][i] >> 8 ^ CRC[0][CRC[k - 1][i] & 0xFF];
}

static uint32_t crc32_of(const char *text, int64_t length) {
    const uint8_t *p = (const uint8_t *)text;
    uint32_t c = 0xFFFFFFFFu;
    for (; length >= 4; length -= 4, p += 4) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = CRC[3][c & 0xFF] ^ CRC[2][c >> 8 & 0xFF] ^ CRC[1][c >> 16 & 0xFF] ^ CRC[0][c >> 24];
    }
    while (length-- > 0) c = CRC[0][(c ^ *p++) & 0xFF] ^ c >> 8;
    return ~c;
}

static uint32_t key_crc(const Store *store, const Column *column, int64_t row) {
    if (column->validity != NULL && !(column->validity[row >> 3] >> (row & 7) & 1)) return crc32_of("", 0);
    if (column->field->kind == INT) {
        char text[24];
        return crc32_of(text, snprintf(text, sizeof text, "%lld", (long long)((int64_t *)column->values)[row]));
    }
    const View *view = (const View *)column->values + row;
    if (view->length <= 12) return crc32_of(view->prefix, view->length);
    const char *text = view->buffer ? store->unescaped : (const char *)store->view.buf;
    return crc32_of(text + view->offset, view->length);
}

static Column *column_named(Store *store, const char *name) {
    size_t length = strlen(name);
    for (int i = 0; i < store->n_columns; i++) {
        const Field *field = store->columns[i].field;
        if (field->name_length == length + 2 && memcmp(field->name + 1, name, length) == 0) return store->columns + i;
    }
    return NULL;
}

/* partitions(name, n) -> the partition of each row by a string or int field, as int32 in bytes */
static PyObject *scanned_partitions(PyObject *self, PyObject *args) {
    const char *name;
    int n;
    if (!PyArg_ParseTuple(args, "si", &name, &n)) return NULL;
    Store *store = ((Scanned *)self)->store;
    Column *column = column_named(store, name);
    if (column == NULL || n < 1 || (column->field->kind != STRING && column->field->kind != INT)) {
        return PyErr_Format(PyExc_ValueError, "%s is no wanted string or int field, or %d no number of partitions", name, n);
    }
    PyObject *found = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)store->n * 4);
    if (found == NULL) return NULL;
    int32_t *owners = (int32_t *)PyBytes_AsString(found);
    for (int64_t row = 0; row < store->n; row++) owners[row] = (int32_t)(key_crc(store, column, row) % (uint32_t)n);
    return found;
}

/* lines(owners, partition) -> the lines whose owner is `partition`, joined by newlines; owners as partitions() gives */
static PyObject *scanned_lines(PyObject *self, PyObject *args) {
    Py_buffer given;
    int wanted;
    if (!PyArg_ParseTuple(args, "y*i", &given, &wanted)) return NULL;
    Store *store = ((Scanned *)self)->store;
    const int32_t *owners = given.buf;
    PyObject *found = NULL;
    if (given.len != store->n * 4) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of owners for %lld rows", given.len, (long long)store->n);
    } else {
        int64_t size = 0;
        for (int64_t row = 0; row < store->n; row++)
            if (owners[row] == wanted) size += store->starts[row + 1] - store->starts[row];
        found = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size > 0 ? size - 1 : 0));
    }
    if (found != NULL) {
        char *out = PyBytes_AsString(found);
        const char *body = store->view.buf, *begin = out;
        for (int64_t row = 0; row < store->n; row++) {
            if (owners[row] != wanted) continue;
            if (out > begin) *out++ = '\n';
            size_t length = (size_t)(store->starts[row + 1] - store->starts[row] - 1);
            memcpy(out, body + store->starts[row], length);
            out += length;
        }
    }
    PyBuffer_Release(&given);
    return found;
}

static PyObject *scanned_n(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(((Scanned *)self)->store->n);
}

static PyObject *scanned_undeclared(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(((Scanned *)self)->store->undeclared);
}

static PyObject *scanned_texts(PyObject *self, void *closure) {
    (void)closure;
    Store *store = ((Scanned *)self)->store;
    PyObject *names = PyList_New(0);
    for (int i = 0; names != NULL && i < store->n_columns; i++) {
        const Field *field = store->columns[i].field;
        if (store->columns[i].form != 't') continue;
        PyObject *name = PyUnicode_FromStringAndSize(field->name + 1, (Py_ssize_t)field->name_length - 2);
        if (name == NULL || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static void scanned_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (((Scanned *)self)->store != NULL) release_store(((Scanned *)self)->store);
    bury(NULL);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef SCANNED_METHODS[] = {
    {"__arrow_c_array__", (PyCFunction)(void (*)(void))scanned_arrow, METH_VARARGS | METH_KEYWORDS, "The columns as a struct array."},
    {"partitions", scanned_partitions, METH_VARARGS, "The partition of each row by a key, as int32."},
    {"lines", scanned_lines, METH_VARARGS, "The lines of one partition."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef SCANNED_GETS[] = {
    {"n", scanned_n, NULL, "Number of rows.", NULL},
    {"undeclared", scanned_undeclared, NULL, "Number of rows with fields that were not named.", NULL},
    {"texts", scanned_texts, NULL, "Names of the wanted timestamps that were texts, and are milliseconds.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot SCANNED_SLOTS[] = {
    {Py_tp_dealloc, scanned_dealloc},
    {Py_tp_methods, SCANNED_METHODS},
    {Py_tp_getset, SCANNED_GETS},
    {0, NULL},
};

static PyType_Spec SCANNED_SPEC = {
    "pipeline.core._ndjson.Scanned", sizeof(Scanned), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, SCANNED_SLOTS,
};

static PyTypeObject *scanned_type;

typedef struct {
    PyObject_HEAD
    Plan plan;
} Scanner;

static bool take_field(Plan *plan, PyObject *given) {
    const char *name, *kind;
    Py_ssize_t length, kind_length;
    int nullable, wanted;
    if (!PyArg_ParseTuple(given, "s#s#pp", &name, &length, &kind, &kind_length, &nullable, &wanted)) return false;
    Field *field = plan->fields + plan->n_fields;
    bool listed = kind_length == 2 && kind[0] == LIST_OF;
    if (strchr("sifbt", kind[listed]) == NULL || (kind_length != 1 && !listed) || (listed && wanted)) {
        PyErr_Format(PyExc_ValueError, "field %s: no kind %s here", name, kind);
        return false;
    }
    if (plain_end(name, name + length) != name + length || (field->name = malloc((size_t)length + 3)) == NULL) {
        PyErr_Format(PyExc_ValueError, "field %s: a name that JSON escapes", name);
        return false;
    }
    field->name[0] = '"';
    memcpy(field->name + 1, name, (size_t)length);
    memcpy(field->name + 1 + length, "\"", 2);
    field->name_length = (size_t)length + 2;
    field->kind = listed ? LIST_OF : kind[0];
    field->item = listed ? kind[1] : 0;
    field->nullable = nullable;
    field->wanted = wanted;
    field->column = wanted ? plan->n_columns++ : -1;
    plan->n_fields++;
    return true;
}

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *fields;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) return PyErr_Format(PyExc_TypeError, "Scanner takes no keywords");
    if (!PyArg_ParseTuple(args, "O", &fields)) return NULL;
    Py_ssize_t n = PySequence_Size(fields);
    if (n < 0) return NULL;
    if (n == 0 || n > MAX_FIELDS) return PyErr_Format(PyExc_ValueError, "%zd fields; 1 to %d can be read", n, MAX_FIELDS);
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    Scanner *scanner = (Scanner *)allocate(type, 0);
    if (scanner == NULL) return NULL;
    bool made = (scanner->plan.fields = calloc((size_t)n, sizeof(Field))) != NULL;
    for (Py_ssize_t i = 0; made && i < n; i++) {
        PyObject *given = PySequence_GetItem(fields, i);
        made = given != NULL && take_field(&scanner->plan, given);
        Py_XDECREF(given);
    }
    if (made) return (PyObject *)scanner;
    Py_DECREF(scanner);
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
}

static void scanner_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Plan *plan = &((Scanner *)self)->plan;
    for (int i = 0; i < plan->n_fields; i++) free(plan->fields[i].name);
    free(plan->fields);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* scan(body) -> Scanned, or None where the careful path has to look */
static PyObject *scanner_scan(PyObject *self, PyObject *body) {
    Store *store = calloc(1, sizeof *store);
    if (store == NULL) return PyErr_NoMemory();
    if (PyObject_GetBuffer(body, &store->view, PyBUF_SIMPLE) < 0) {
        free(store);
        return NULL;
    }
    bury(NULL);
    atomic_init(&store->references, 1);
    Py_INCREF(self);
    store->scanner = self;
    const Plan *plan = &((Scanner *)self)->plan;
    const char *begin = store->view.buf, *end = begin + store->view.len;
    while (end > begin && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t')) end--;
    bool taken = false;
    if (begin != NULL && end > begin && store->view.len < MAX_BODY && *begin == '{') {
        Py_BEGIN_ALLOW_THREADS
        Scan scan = {begin, end, store, plan};
        store->n = count_lines(begin, end);
        taken = make_columns(store, plan) && read_rows(&scan);
        Py_END_ALLOW_THREADS
    }
    Scanned *scanned = NULL;
    if (taken) {
        allocfunc allocate = PyType_GetSlot(scanned_type, Py_tp_alloc);
        scanned = (Scanned *)allocate(scanned_type, 0);
        if (scanned != NULL) scanned->store = store;
    }
    if (scanned == NULL) {
        release_store(store);
        bury(NULL);
        if (taken) return NULL;
        Py_RETURN_NONE;
    }
    return (PyObject *)scanned;
}

static PyMethodDef SCANNER_METHODS[] = {
    {"scan", scanner_scan, METH_O, "Read a body of NDJSON to columns, or None where the careful path has to look."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot SCANNER_SLOTS[] = {
    {Py_tp_new, scanner_new},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, SCANNER_METHODS},
    {0, NULL},
};

static PyType_Spec SCANNER_SPEC = {
    "pipeline.core._ndjson.Scanner", sizeof(Scanner), 0, Py_TPFLAGS_DEFAULT, SCANNER_SLOTS,
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_ndjson", "NDJSON to columns.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__ndjson(void) {
    make_crc_table();
    if (C_LOCALE == (locale_t)0) C_LOCALE = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    PyObject *module = PyModule_Create(&MODULE);
    if (module == NULL) return NULL;
    PyObject *scanner = PyType_FromSpec(&SCANNER_SPEC);
    scanned_type = (PyTypeObject *)PyType_FromSpec(&SCANNED_SPEC);
    if (C_LOCALE == (locale_t)0 || scanner == NULL || scanned_type == NULL || PyModule_AddObjectRef(module, "Scanner", scanner) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(scanner);
    return module;
}
