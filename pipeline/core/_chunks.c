/* Chunks as the door writes them, read without pyarrow: many at once to columns, or some rows of one to values.
 *
 *   columns(bodies, counts, fields)
 *       bodies    Arrow IPC streams; counts: the rows that each has by its header
 *       fields    (name in UTF-8, kind, nullable) of each wanted column: kind s(tring), i(nt), f(loat), b(ool), t(ime)
 *     → None, or for each field (nulls, validity or None, data, text or None) of all rows, body after body:
 *       data      string views into text; int64, doubles or ms of 8 bytes; bools as bits
 *   rows(body, count, fields, places)
 *     → None, or for each field the list of its values in the rows `places` (int64): str, int, float, bool, None
 *
 * None is what everything gets that is not exactly as expected: another layout, a compressed buffer, damage, a null
 * where there may be none, a time outside of the years. pyarrow then looks at it (arrow_stream), and decides.
 * Nothing in a body is believed: every offset is checked before it is followed.
 *
 *   stream       FFFFFFFF  length  metadata (a flatbuffer)  buffers     schema, dictionaries, one record batch; then
 *                FFFFFFFF  0                                            the end
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FIELDS 64   /* of a schema, as in _ndjson.c */
#define VERSION 4         /* of the format: V5 */
#define MAX_TEXT 16000000 /* what the texts of a chunk may come to, each row with its own: codings.MAX_INFLATED_BYTES */
#define MIN_TIME_MS (-62135596800000)
#define MAX_TIME_MS 253402300799999

/* --- bytes that may end anywhere */

typedef struct {
    const uint8_t *data;
    int64_t size;
} Span;

static bool within(Span span, int64_t at, int64_t size) { return at >= 0 && size >= 0 && at <= span.size && size <= span.size - at; }

static bool get(Span span, int64_t at, void *out, int64_t size) {
    if (!within(span, at, size)) return false;
    memcpy(out, span.data + at, (size_t)size);
    return true;
}

static bool is_utf8(const uint8_t *p, int64_t size) {
    const uint8_t *end = p + size;
    while (p < end) {
        uint64_t word;
        if (end - p >= 8 && (memcpy(&word, p, 8), !(word & 0x8080808080808080u))) {
            p += 8;
            continue;
        }
        uint8_t lead = *p++;
        if (lead < 0x80) continue;
        int more = lead >= 0xC2 && lead <= 0xDF ? 1 : (lead & 0xF0) == 0xE0 ? 2 : lead >= 0xF0 && lead <= 0xF4 ? 3 : 0;
        if (more == 0 || end - p < more) return false;
        uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (*p < low || *p > high) return false; /* too long, a surrogate, or beyond Unicode */
        for (p++; --more > 0; p++)
            if ((*p & 0xC0) != 0x80) return false;
    }
    return true;
}

/* --- flatbuffers: a table points back to its vtable, which says where each field is. As strict as pyarrow's verifier,
 * and stricter: a field that nothing here reads makes the chunk pyarrow's. */

typedef struct {
    Span in;
    int64_t at;
    uint16_t fields[8]; /* where each is from `at` on, 0: it is not there */
    uint16_t size;
} Table;

static bool table_at(Span in, int64_t at, int n_known, Table *table) {
    int32_t back;
    uint16_t sizes[2];
    if (at % 4 || !get(in, at, &back, 4)) return false;
    int64_t vtable = at - back;
    *table = (Table){.in = in, .at = at};
    if (vtable % 2 || !get(in, vtable, sizes, 4) || sizes[0] < 4 || sizes[0] % 2 || !within(in, vtable, sizes[0])) return false;
    if (!within(in, at, sizes[1]) || sizes[1] < 4) return false;
    table->size = sizes[1];
    for (int i = 0; 4 + 2 * i < sizes[0]; i++) {
        uint16_t offset;
        memcpy(&offset, in.data + vtable + 4 + 2 * i, 2);
        if (!offset) continue;
        if (i >= n_known || offset < 4 || offset >= sizes[1]) return false;
        table->fields[i] = offset;
    }
    return true;
}

static bool has(const Table *table, int number) { return table->fields[number] != 0; }

/* A scalar, or what holds where it is left out; false where it lies outside. */
static bool scalar(const Table *table, int number, void *out, int64_t size) {
    int64_t at = table->at + table->fields[number];
    return !has(table, number) || (at % size == 0 && table->fields[number] + size <= table->size && get(table->in, at, out, size));
}

/* Where a field points to; -1 where it is not there, or points nowhere. */
static int64_t target_of(const Table *table, int number) {
    uint32_t offset;
    if (!has(table, number) || !scalar(table, number, &offset, 4) || offset == 0) return -1;
    return table->at + table->fields[number] + offset;
}

static bool child(const Table *table, int number, int n_known, Table *found) {
    int64_t at = target_of(table, number);
    return at >= 0 && table_at(table->in, at, n_known, found);
}

/* A vector: where its elements begin, and how many there are. */
static bool vector(const Table *table, int number, int64_t width, int64_t *at, int64_t *n) {
    uint32_t count;
    int64_t start = target_of(table, number);
    if (start < 0 || start % 4 || !get(table->in, start, &count, 4) || !within(table->in, start + 4, count * width)) return false;
    *at = start + 4;
    *n = count;
    return width <= 4 || *at % 8 == 0;
}

/* --- one chunk: where the buffers of its wanted columns are */

enum type { NULLS = 1, INT = 2, FLOAT = 3, UTF8 = 5, BOOL = 6, TIMESTAMP = 10 };
enum message { SCHEMA = 1, DICTIONARY = 2, BATCH = 3 };

typedef struct {
    const char *name;
    Py_ssize_t name_size;
    char kind;
    bool nullable;
} Field;

typedef struct {
    int64_t n; /* texts */
    const uint8_t *offsets;
    Span text;
} Texts;

typedef struct {
    bool there;
    const uint8_t *validity; /* NULL: every row has a value */
    const uint8_t *data;     /* numbers, bits, or the indices of a dictionary */
    int width;               /* of an index; 0: no dictionary */
    Texts texts;
} Column;

typedef struct {
    int field; /* the wanted one that it is, or -1 */
    int n_buffers, width;
    int64_t dictionary; /* its id, or -1 */
    bool has_texts;
    Texts texts;
} Stored;

typedef struct {
    Stored stored[MAX_FIELDS];
    int n_stored;
    Column columns[MAX_FIELDS];
    bool has_schema, has_batch;
} Layout;

static inline int32_t offset_at(const Texts *texts, int64_t i) {
    int32_t offset;
    memcpy(&offset, texts->offsets + 4 * i, 4);
    return offset;
}

/* The type of a column: how many buffers it has, and whether it is as the kind wants it (or no kind does). */
static bool read_type(const Table *field, char kind, Stored *stored) {
    uint8_t type = 0, is_signed = 0;
    int32_t bits = 0;
    int16_t unit = 0;
    Table details, encoding, index;
    if (!scalar(field, 2, &type, 1) || !child(field, 3, 2, &details)) return false;
    stored->dictionary = -1;
    stored->n_buffers = type == NULLS ? 0 : type == UTF8 ? 3 : 2;
    if (has(field, 4)) {
        int16_t form = 0;
        int64_t id = 0;
        if (type != UTF8 || !child(field, 4, 4, &encoding) || !scalar(&encoding, 0, &id, 8) || id < 0) return false;
        if (!child(&encoding, 1, 2, &index) || !scalar(&index, 0, &bits, 4) || !scalar(&index, 1, &is_signed, 1) || !scalar(&encoding, 3, &form, 2) || form) return false;
        if (bits != 8 && bits != 16 && bits != 32) return false;
        stored->dictionary = id;
        stored->n_buffers = 2;
        stored->width = bits / 8; /* a negative index is beyond any dictionary when it is read unsigned */
    }
    switch (type) {
    case NULLS: return kind == 0;
    case INT: return scalar(&details, 0, &bits, 4) && scalar(&details, 1, &is_signed, 1) && (kind == 0 || (kind == 'i' && bits == 64 && is_signed));
    case FLOAT: return scalar(&details, 0, &unit, 2) && (kind == 0 || (kind == 'f' && unit == 2));
    case UTF8: return kind == 0 || kind == 's';
    case BOOL: return kind == 0 || kind == 'b';
    case TIMESTAMP: return scalar(&details, 0, &unit, 2) && (kind == 0 || (kind == 't' && unit == 1 && !has(&details, 1)));
    default: return false;
    }
}

/* A string of a flatbuffer ends with a zero. */
static bool is_name(Span in, int64_t at, int64_t size) {
    return within(in, at, size + 1) && in.data[at + size] == 0 && is_utf8(in.data + at, size);
}

static bool read_schema(const Table *schema, const Field *fields, int n_fields, Layout *layout) {
    int64_t at, n, children, n_children;
    int16_t big_endian = 0;
    bool seen[MAX_FIELDS] = {false};
    if (layout->has_schema || !scalar(schema, 0, &big_endian, 2) || big_endian) return false;
    if (!vector(schema, 1, 4, &at, &n) || n > MAX_FIELDS) return false;
    for (int64_t i = 0; i < n; i++) {
        uint32_t offset;
        int64_t name, size;
        Table field;
        if (!get(schema->in, at + 4 * i, &offset, 4) || !table_at(schema->in, at + 4 * i + offset, 6, &field)) return false;
        if (!vector(&field, 0, 1, &name, &size) || !is_name(schema->in, name, size)) return false;
        if (has(&field, 5) && (!vector(&field, 5, 4, &children, &n_children) || n_children)) return false;
        Stored *stored = layout->stored + i;
        *stored = (Stored){.field = -1};
        for (int wanted = 0; wanted < n_fields; wanted++) {
            if (fields[wanted].name_size != size || memcmp(fields[wanted].name, schema->in.data + name, (size_t)size) != 0) continue;
            if (seen[wanted]) return false;
            seen[wanted] = true;
            stored->field = wanted;
        }
        if (!read_type(&field, stored->field < 0 ? 0 : fields[stored->field].kind, stored)) return false;
        for (int64_t other = 0; other < i; other++)
            if (stored->dictionary >= 0 && layout->stored[other].dictionary == stored->dictionary) return false;
    }
    layout->n_stored = (int)n;
    return layout->has_schema = true;
}

typedef struct {
    Table table;
    Span body;
    int64_t length, nodes, n_nodes, buffers, n_buffers;
} Batch;

static bool read_batch(const Table *table, Span body, Batch *batch) {
    *batch = (Batch){.table = *table, .body = body};
    if (has(table, 3)) return false; /* compressed: pyarrow inflates it, within its bounds */
    return scalar(table, 0, &batch->length, 8) && batch->length >= 0 && batch->length <= INT32_MAX &&
           vector(table, 1, 16, &batch->nodes, &batch->n_nodes) && vector(table, 2, 16, &batch->buffers, &batch->n_buffers);
}

static bool buffer_at(const Batch *batch, int64_t number, Span *found) {
    int64_t place[2];
    if (number >= batch->n_buffers || !get(batch->table.in, batch->buffers + 16 * number, place, 16)) return false;
    if (place[0] % 8 || !within(batch->body, place[0], place[1])) return false;
    *found = (Span){batch->body.data + place[0], place[1]};
    return true;
}

/* The validity of a column of `n` rows; NULL where all are given. */
static bool validity_at(const Batch *batch, int64_t node, int64_t buffer, int64_t n, const uint8_t **validity) {
    int64_t said[2], given = 0;
    Span bits;
    if (node >= batch->n_nodes || !get(batch->table.in, batch->nodes + 16 * node, said, 16)) return false;
    if (said[0] != n || said[1] < 0 || said[1] > n || !buffer_at(batch, buffer, &bits)) return false;
    *validity = NULL;
    if (said[1] == 0) return true;
    if (bits.size < (n + 7) / 8) return false;
    for (int64_t i = 0; i < n; i++) given += bits.data[i >> 3] >> (i & 7) & 1;
    *validity = bits.data;
    return n - given == said[1];
}

static bool texts_at(const Batch *batch, int64_t buffer, int64_t n, Texts *texts) {
    Span offsets;
    if (!buffer_at(batch, buffer, &offsets) || !buffer_at(batch, buffer + 1, &texts->text)) return false;
    texts->n = n;
    texts->offsets = offsets.data;
    return texts->text.size <= MAX_TEXT && (n == 0 || offsets.size >= 4 * (n + 1));
}

static bool read_dictionary(const Table *header, Span body, Layout *layout) {
    int64_t id = 0;
    uint8_t is_delta = 0;
    const uint8_t *validity;
    Table data;
    Batch batch;
    if (!layout->has_schema || layout->has_batch || !scalar(header, 0, &id, 8) || !scalar(header, 2, &is_delta, 1) || is_delta) return false;
    if (!child(header, 1, 5, &data) || !read_batch(&data, body, &batch) || batch.n_nodes != 1 || batch.n_buffers != 3) return false;
    for (int i = 0; i < layout->n_stored; i++) {
        Stored *stored = layout->stored + i;
        if (stored->dictionary != id) continue;
        if (stored->has_texts || !validity_at(&batch, 0, 0, batch.length, &validity) || validity) return false;
        return stored->has_texts = texts_at(&batch, 1, batch.length, &stored->texts);
    }
    return false;
}

static bool read_columns(const Table *header, Span body, int64_t count, const Field *fields, Layout *layout) {
    Batch batch;
    int64_t buffer = 0;
    if (!layout->has_schema || layout->has_batch || !read_batch(header, body, &batch) || batch.length != count) return false;
    if (batch.n_nodes != layout->n_stored) return false;
    for (int i = 0; i < layout->n_stored; i++) {
        const Stored *stored = layout->stored + i;
        const int64_t first = buffer;
        Span data;
        buffer += stored->n_buffers;
        if (buffer > batch.n_buffers) return false;
        if (stored->field < 0) continue;
        Column *column = layout->columns + stored->field;
        *column = (Column){.there = true, .width = stored->width, .texts = stored->texts};
        if (!validity_at(&batch, i, first, count, &column->validity)) return false;
        if (stored->n_buffers == 3) {
            if (!texts_at(&batch, first + 1, count, &column->texts)) return false;
            continue;
        }
        if (!buffer_at(&batch, first + 1, &data)) return false;
        if (stored->dictionary >= 0 && !stored->has_texts) return false;
        const char kind = fields[stored->field].kind;
        if (data.size < (kind == 's' ? stored->width * count : kind == 'b' ? (count + 7) / 8 : 8 * count)) return false;
        column->data = data.data;
    }
    return layout->has_batch = buffer == batch.n_buffers;
}

/* Find the buffers of a body; what may be missing is left so. */
static bool read_layout(Span stream, int64_t count, const Field *fields, int n_fields, Layout *layout) {
    int64_t at = 0;
    memset(layout, 0, sizeof *layout);
    if (count < 0 || count > INT32_MAX) return false;
    while (true) {
        int32_t head[2];
        uint8_t kind = 0;
        int64_t body_size = 0;
        Table message, header;
        if (!get(stream, at, head, 8) || head[0] != -1 || head[1] < 0) return false;
        at += 8;
        if (head[1] == 0) break;
        if (!within(stream, at, head[1])) return false;
        Span metadata = {stream.data + at, head[1]};
        uint32_t root;
        at += head[1];
        int16_t version = 0;
        if (!get(metadata, 0, &root, 4) || !table_at(metadata, root, 4, &message)) return false;
        if (!scalar(&message, 0, &version, 2) || version != VERSION) return false;
        if (!scalar(&message, 1, &kind, 1) || !child(&message, 2, 4, &header) || !scalar(&message, 3, &body_size, 8)) return false;
        if (!within(stream, at, body_size)) return false;
        Span body = {stream.data + at, body_size};
        at += body_size;
        bool read = kind == SCHEMA       ? read_schema(&header, fields, n_fields, layout)
                    : kind == DICTIONARY ? read_dictionary(&header, body, layout)
                    : kind == BATCH      ? read_columns(&header, body, count, fields, layout)
                                         : false;
        if (!read) return false;
    }
    if (!layout->has_batch || at != stream.size) return false;
    for (int i = 0; i < n_fields; i++) {
        const Column *column = layout->columns + i;
        if ((!column->there || column->validity) && !fields[i].nullable) return false;
    }
    return true;
}

static inline bool is_given(const Column *column, int64_t row) {
    return column->there && (column->validity == NULL || (column->validity[row >> 3] >> (row & 7) & 1));
}

static inline uint32_t index_at(const Column *column, int64_t row) {
    uint16_t two;
    uint32_t four;
    if (column->width == 1) return column->data[row];
    if (column->width == 2) {
        memcpy(&two, column->data + 2 * row, 2);
        return two;
    }
    memcpy(&four, column->data + 4 * row, 4);
    return four;
}

/* The number of a row's text; false where it is beyond the dictionary. */
static inline bool text_number(const Column *column, int64_t row, int64_t *number) {
    *number = column->width ? (int64_t)index_at(column, row) : row;
    return *number < column->texts.n;
}

/* --- texts */

/* Whether all texts are whole and UTF-8, and where their bytes are. */
static bool check_texts(const Texts *texts, int64_t *first, int64_t *size, int64_t *longest) {
    *first = *size = *longest = 0;
    if (texts->n == 0) return true;
    int32_t before = offset_at(texts, 0);
    const uint8_t *text = texts->text.data;
    *first = before;
    if (before < 0) return false;
    for (int64_t i = 1; i <= texts->n; i++) {
        int32_t after = offset_at(texts, i);
        if (after < before || after > texts->text.size) return false;
        if (after > before && (text[before] & 0xC0) == 0x80) return false; /* it begins in the middle of a character */
        if (after - before > *longest) *longest = after - before;
        before = after;
    }
    *size = before - *first;
    return is_utf8(text + *first, *size);
}

typedef struct {
    int32_t length;
    char prefix[12]; /* of a longer text: 4 bytes, then buffer and offset as int32 */
} View;

static inline void set_view(View *view, const char *text, int32_t begin, int32_t length) {
    const int32_t buffer = 0;
    memset(view, 0, sizeof *view);
    view->length = length;
    if (length <= 12) {
        memcpy(view->prefix, text + begin, (size_t)length);
    } else {
        memcpy(view->prefix, text + begin, 4);
        memcpy(view->prefix + 4, &buffer, 4);
        memcpy(view->prefix + 8, &begin, 4);
    }
}

/* --- columns of many bodies */

typedef struct {
    PyObject *data, *text, *validity; /* bytes */
    int64_t nulls, n_text;
} Made;

static bool fill_texts(const Column *column, int64_t count, View *views, char *text, int64_t *n_text, View **distinct, int64_t *room) {
    const Texts *texts = &column->texts;
    int64_t first, size, longest;
    if (!column->there) {
        memset(views, 0, (size_t)count * sizeof *views);
        return true;
    }
    if (!check_texts(texts, &first, &size, &longest)) return false;
    if (column->width && longest * count + texts->text.size > MAX_TEXT) return false;
    if (size) memcpy(text + *n_text, texts->text.data + first, (size_t)size);
    View *out = views;
    if (column->width) {
        if (texts->n > *room) {
            View *grown = realloc(*distinct, (size_t)texts->n * sizeof *grown);
            if (grown == NULL) return false;
            *distinct = grown;
            *room = texts->n;
        }
        out = *distinct;
    }
    const int64_t shift = *n_text - first;
    for (int64_t i = 0; i < texts->n; i++) {
        int32_t begin = offset_at(texts, i);
        set_view(out + i, text, (int32_t)(begin + shift), offset_at(texts, i + 1) - begin);
    }
    *n_text += size;
    if (!column->width) return true;
    for (int64_t row = 0; row < count; row++) {
        int64_t number;
        if (text_number(column, row, &number)) views[row] = out[number];
        else if (is_given(column, row)) return false;
        else memset(views + row, 0, sizeof *views);
    }
    return true;
}

static bool fill_numbers(const Column *column, char kind, int64_t count, char *out) {
    if (!column->there) {
        memset(out, 0, 8 * (size_t)count);
        return true;
    }
    memcpy(out, column->data, 8 * (size_t)count);
    bool sound = true;
    if (kind == 't') {
        for (int64_t row = 0; row < count; row++) {
            int64_t ms;
            memcpy(&ms, out + 8 * row, 8);
            sound &= (ms >= MIN_TIME_MS && ms <= MAX_TIME_MS) || !is_given(column, row);
        }
    } else if (kind == 'f') {
        for (int64_t row = 0; row < count; row++) {
            double value;
            memcpy(&value, out + 8 * row, 8);
            sound &= isfinite(value) || !is_given(column, row);
        }
    }
    return sound;
}

static inline void set_bit(uint8_t *bits, int64_t at, bool value) { bits[at >> 3] |= (uint8_t)(value << (at & 7)); }

static void fill_bools(const Column *column, int64_t count, int64_t done, uint8_t *bits) {
    for (int64_t row = 0; row < count; row++)
        set_bit(bits, done + row, is_given(column, row) && (column->data[row >> 3] >> (row & 7) & 1));
}

static int64_t fill_validity(const Column *column, int64_t count, int64_t done, uint8_t *bits) {
    int64_t nulls = 0;
    for (int64_t row = 0; row < count; row++) {
        bool given = is_given(column, row);
        set_bit(bits, done + row, given);
        nulls += !given;
    }
    return nulls;
}

/* What all bodies come to in one column. */
static bool fill(const Layout *layouts, const int64_t *counts, int64_t n_bodies, int number, const Field *field, Made *made) {
    char *data = PyBytes_AsString(made->data), *text = made->text ? PyBytes_AsString(made->text) : NULL;
    uint8_t *validity = made->validity ? (uint8_t *)PyBytes_AsString(made->validity) : NULL;
    View *distinct = NULL;
    int64_t room = 0, done = 0;
    bool sound = true;
    for (int64_t i = 0; sound && i < n_bodies; i++) {
        const Column *column = layouts[i].columns + number;
        if (field->kind == 's') sound = fill_texts(column, counts[i], (View *)data + done, text, &made->n_text, &distinct, &room);
        else if (field->kind == 'b') fill_bools(column, counts[i], done, (uint8_t *)data);
        else sound = fill_numbers(column, field->kind, counts[i], data + 8 * done);
        if (validity) made->nulls += fill_validity(column, counts[i], done, validity);
        done += counts[i];
    }
    free(distinct);
    return sound;
}

static PyObject *zeros(int64_t size) {
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (made != NULL) memset(PyBytes_AsString(made), 0, (size_t)size);
    return made;
}

/* Room for a column; false: no memory, which is an error, or texts beyond what a view can point to, which is none. */
static bool make_room(const Layout *layouts, int64_t n_bodies, int number, const Field *field, int64_t total, Made *made) {
    bool has_nulls = false;
    int64_t text = 0;
    for (int64_t i = 0; i < n_bodies; i++) {
        const Column *column = layouts[i].columns + number;
        has_nulls |= !column->there || column->validity != NULL;
        text += column->texts.text.size;
    }
    if (text > INT32_MAX) return false;
    if (has_nulls && (made->validity = zeros((total + 7) / 8)) == NULL) return false;
    if (field->kind == 's' && (made->text = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)text)) == NULL) return false;
    made->data = field->kind == 'b' ? zeros((total + 7) / 8) : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(total * (field->kind == 's' ? 16 : 8)));
    return made->data != NULL;
}

static bool take_fields(PyObject *given, Field *fields, int *n_fields) {
    Py_ssize_t n = PyTuple_Size(given);
    if (n < 0) return false;
    if (n > MAX_FIELDS) {
        PyErr_SetString(PyExc_ValueError, "too many fields");
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        int nullable, kind;
        char *name;
        PyObject *each = PyTuple_GetItem(given, i);
        if (!PyArg_ParseTuple(each, "s#Cp", &name, &fields[i].name_size, &kind, &nullable)) return false;
        if (strchr("sifbt", kind) == NULL || kind == 0) {
            PyErr_SetString(PyExc_ValueError, "a field's kind is one of s, i, f, b, t");
            return false;
        }
        fields[i].name = name;
        fields[i].kind = (char)kind;
        fields[i].nullable = nullable;
    }
    *n_fields = (int)n;
    return true;
}

static PyObject *as_tuple(const Made *made) {
    return Py_BuildValue("LOOO", (long long)made->nulls, made->nulls ? made->validity : Py_None, made->data, made->text ? made->text : Py_None);
}

typedef struct {
    Span *bodies;
    int64_t *counts;
    Layout *layouts;
    int64_t n, total;
} Bodies;

static bool take_bodies(PyObject *given, PyObject *counts, Bodies *bodies) {
    Py_ssize_t n = PyList_Size(given);
    if (n < 0 || PyList_Size(counts) != n) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a count for each body");
        return false;
    }
    bodies->bodies = calloc((size_t)n + 1, sizeof *bodies->bodies);
    bodies->counts = calloc((size_t)n + 1, sizeof *bodies->counts);
    bodies->layouts = calloc((size_t)n + 1, sizeof *bodies->layouts);
    if (!bodies->bodies || !bodies->counts || !bodies->layouts) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        char *data;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyList_GetItem(given, i), &data, &size) < 0) return false;
        bodies->bodies[i] = (Span){(const uint8_t *)data, size};
        bodies->counts[i] = PyLong_AsLongLong(PyList_GetItem(counts, i));
        if (PyErr_Occurred()) return false;
    }
    bodies->n = n;
    return true;
}

static bool read_bodies(Bodies *bodies, const Field *fields, int n_fields) {
    for (int64_t i = 0; i < bodies->n; i++) {
        if (!read_layout(bodies->bodies[i], bodies->counts[i], fields, n_fields, bodies->layouts + i)) return false;
        bodies->total += bodies->counts[i];
    }
    return bodies->total <= INT32_MAX;
}

static PyObject *made_columns(Bodies *bodies, const Field *fields, int n_fields) {
    Made made[MAX_FIELDS];
    memset(made, 0, sizeof made);
    bool sound;
    Py_BEGIN_ALLOW_THREADS
    sound = read_bodies(bodies, fields, n_fields);
    Py_END_ALLOW_THREADS
    PyObject *found = NULL;
    for (int i = 0; sound && i < n_fields; i++) sound = make_room(bodies->layouts, bodies->n, i, fields + i, bodies->total, made + i);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
        for (int i = 0; sound && i < n_fields; i++) sound = fill(bodies->layouts, bodies->counts, bodies->n, i, fields + i, made + i);
        Py_END_ALLOW_THREADS
    }
    if (sound && (found = PyTuple_New(n_fields)) != NULL) {
        for (int i = 0; i < n_fields; i++) {
            PyObject *column = as_tuple(made + i);
            if (column == NULL) {
                Py_CLEAR(found);
                break;
            }
            PyTuple_SetItem(found, i, column);
        }
    }
    for (int i = 0; i < n_fields; i++) {
        Py_XDECREF(made[i].data);
        Py_XDECREF(made[i].text);
        Py_XDECREF(made[i].validity);
    }
    return found == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : found;
}

static PyObject *columns(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *given, *counts, *named, *made = NULL;
    Field fields[MAX_FIELDS];
    int n_fields;
    Bodies bodies = {0};
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyList_Type, &given, &PyList_Type, &counts, &PyTuple_Type, &named)) return NULL;
    if (take_fields(named, fields, &n_fields) && take_bodies(given, counts, &bodies)) made = made_columns(&bodies, fields, n_fields);
    free(bodies.bodies);
    free(bodies.counts);
    free(bodies.layouts);
    return made;
}

/* --- some rows of one body */

/* The text of a row; NULL without an error where it is not sound. */
static PyObject *text_at(const Column *column, int64_t row) {
    int64_t number;
    if (!text_number(column, row, &number)) return NULL;
    int32_t begin = offset_at(&column->texts, number), end = offset_at(&column->texts, number + 1);
    if (begin < 0 || end < begin || end > column->texts.text.size) return NULL;
    PyObject *text = PyUnicode_DecodeUTF8((const char *)column->texts.text.data + begin, end - begin, NULL);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) PyErr_Clear();
    return text;
}

static PyObject *value_at(const Column *column, char kind, int64_t row) {
    int64_t number;
    double value;
    if (!is_given(column, row)) return Py_NewRef(Py_None);
    if (kind == 's') return text_at(column, row);
    if (kind == 'b') return PyBool_FromLong(column->data[row >> 3] >> (row & 7) & 1);
    memcpy(&value, column->data + 8 * row, 8);
    if (kind == 'f') return isfinite(value) ? PyFloat_FromDouble(value) : NULL;
    memcpy(&number, column->data + 8 * row, 8);
    if (kind == 't' && (number < MIN_TIME_MS || number > MAX_TIME_MS)) return NULL;
    return PyLong_FromLongLong(number);
}

static PyObject *values_of(const Column *column, char kind, int64_t count, const int64_t *places, int64_t n) {
    PyObject *values = PyList_New((Py_ssize_t)n);
    for (int64_t i = 0; values != NULL && i < n; i++) {
        int64_t row = places[i];
        PyObject *value = row < 0 || row >= count ? NULL : value_at(column, kind, row);
        if (value == NULL) Py_CLEAR(values);
        else PyList_SetItem(values, (Py_ssize_t)i, value);
    }
    return values;
}

static PyObject *rows(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *named, *found = NULL;
    Py_buffer body = {0}, places = {0};
    long long count;
    Field fields[MAX_FIELDS];
    int n_fields;
    if (!PyArg_ParseTuple(args, "y*LO!y*", &body, &count, &PyTuple_Type, &named, &places)) return NULL;
    Layout *layout = malloc(sizeof *layout);
    if (layout == NULL) {
        PyErr_NoMemory();
    } else if (take_fields(named, fields, &n_fields)) {
        Span stream = {body.buf, body.len};
        if (read_layout(stream, count, fields, n_fields, layout)) found = PyList_New(n_fields);
        for (int i = 0; found != NULL && i < n_fields; i++) {
            PyObject *values = values_of(layout->columns + i, fields[i].kind, count, places.buf, places.len / 8);
            if (values == NULL) Py_CLEAR(found);
            else PyList_SetItem(found, i, values);
        }
        if (found == NULL && !PyErr_Occurred()) found = Py_NewRef(Py_None);
    }
    free(layout);
    PyBuffer_Release(&body);
    PyBuffer_Release(&places);
    return found;
}

static PyMethodDef METHODS[] = {
    {"columns", columns, METH_VARARGS, "The columns of many chunks, body after body; None: not as the door writes them."},
    {"rows", rows, METH_VARARGS, "The values of some rows of a chunk, by field; None: not as the door writes it."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_chunks", "Chunks of columns, read.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__chunks(void) { return PyModule_Create(&MODULE); }
