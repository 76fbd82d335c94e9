/* Columns of texts: stored small, and told apart by numbers.
 *
 *   pack(views, texts, validity, places, first, count)
 *       views     string views of 16 bytes a row (Arrow's layout); texts: the buffers that the long ones point into
 *       validity  bitmap, or None where no value is null
 *       places    rows as int64, or None for all of them in order; taken are count of them from `first` on
 *     → (nulls, validity or None, width, indices or None, offsets, text)
 *       offsets and text: a utf8 array of the distinct texts in the order they come, or, without indices, of all rows
 *       width     bytes of an index: 1, 2 or 4
 *
 *       As small as it can be: what repeats once, with an index a row; else the texts one by one.
 *   views(offsets, text, indices, width, count)
 *     → the string views of that array: of its distinct texts by the indices, or (None) of its texts in order
 *   codes(views, texts, validity, count)
 *     → (codes as int32, rows as int64): the number of each row's text among the distinct ones, -1 where it is null, and
 *       the first row of each of them
 *   numbers(values)
 *     → the same of a column of int64 without nulls
 *   sound(views, texts, validity, count)
 *     → how many of the rows are null, if every other one's view is as Arrow has it (inside of its text, its beginning
 *       repeated, nothing behind a short one) and its text ASCII; None where some is not: that may still be UTF-8
 *   total(views, validity, count)
 *     → the bytes of the texts of all rows
 *
 * A dictionary is given up where nine of ten texts are new, which is looked at after 1,024 rows, 2,048, 4,096, …
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_hash.h"

#define FIRST_LOOK 1024

typedef struct {
    int32_t length;
    char prefix[12]; /* of a longer text: 4 bytes, then buffer and offset as int32 */
} View;

typedef struct {
    const char *data;
    int64_t size;
} Text;

typedef struct {
    const View *views;
    const uint8_t *validity;
    const int64_t *places;
    int64_t first, count;
    Text *texts; /* one of each chunk that was read, or none */
    Py_ssize_t n_texts;
} Column;

typedef struct {
    int32_t *codes;  /* of each row, its distinct text */
    char *text;      /* the distinct texts, one after the other: together they stay in the cache */
    int32_t *ends;   /* n + 1: where each begins and the last one ends */
    uint64_t *slots; /* open addressing: hash above, the number of a distinct text + 1 below */
    int64_t n, bytes;
    int64_t n_room, n_slots, text_room;
} Dictionary;

static inline int64_t row_of(const Column *column, int64_t at) {
    return column->places == NULL ? column->first + at : column->places[column->first + at];
}

static inline bool is_given(const Column *column, int64_t row) {
    return column->validity == NULL || (column->validity[row >> 3] >> (row & 7) & 1);
}

/* The text of a row, empty where it is null; NULL where its view points nowhere. */
static inline const char *text_of(const Column *column, int64_t row, int32_t *length) {
    const View *view = column->views + row;
    int32_t buffer, offset;
    *length = is_given(column, row) ? view->length : 0;
    if (*length <= 12) return *length < 0 ? NULL : view->prefix;
    memcpy(&buffer, view->prefix + 4, 4);
    memcpy(&offset, view->prefix + 8, 4);
    if (buffer < 0 || buffer >= column->n_texts || offset < 0) return NULL;
    const Text *text = column->texts + buffer;
    return (int64_t)offset + *length <= text->size ? text->data + offset : NULL;
}

static void forget(Dictionary *found) {
    free(found->codes);
    free(found->text);
    free(found->ends);
    free(found->slots);
}

/* Room for more texts, and slots that are half empty at most. */
static bool grow(Dictionary *found) {
    int64_t n_room = found->n_room ? 4 * found->n_room : 512, n_slots = 2 * n_room;
    int32_t *ends = realloc(found->ends, (size_t)(n_room + 1) * sizeof *ends);
    if (ends == NULL) return false;
    if (found->ends == NULL) ends[0] = 0;
    found->ends = ends;
    uint64_t *slots = calloc((size_t)n_slots, sizeof *slots);
    if (slots == NULL) return false;
    for (int64_t i = 0; i < found->n_slots; i++) {
        if (!found->slots[i]) continue;
        int64_t at = (int64_t)(found->slots[i] >> 32) & (n_slots - 1);
        while (slots[at]) at = (at + 1) & (n_slots - 1);
        slots[at] = found->slots[i];
    }
    free(found->slots);
    found->slots = slots;
    found->n_room = n_room;
    found->n_slots = n_slots;
    return true;
}

static bool keep(Dictionary *found, const char *text, int32_t length) {
    if (found->bytes + length > INT32_MAX) return false;
    if (found->bytes + length > found->text_room) {
        int64_t room = 2 * found->text_room + length + 4096;
        char *grown = realloc(found->text, (size_t)room);
        if (grown == NULL) return false;
        found->text = grown;
        found->text_room = room;
    }
    if (length > 0) memcpy(found->text + found->bytes, text, (size_t)length);
    found->bytes += length;
    found->ends[++found->n] = (int32_t)found->bytes;
    return true;
}

/* The number of a text among the distinct ones; -1 where there is no memory for it. */
static inline int64_t code_of(Dictionary *found, const char *text, int32_t length) {
    uint64_t hash = hash_of(0, text, length);
    int64_t at = (int64_t)hash & (found->n_slots - 1);
    for (uint64_t slot; (slot = found->slots[at]) != 0; at = (at + 1) & (found->n_slots - 1)) {
        if (slot >> 32 != hash) continue;
        int64_t i = (int64_t)(slot & 0xFFFFFFFFu) - 1;
        const int32_t begin = found->ends[i];
        if (found->ends[i + 1] - begin == length && is_same(found->text + begin, text, length)) return i;
    }
    if (!keep(found, text, length)) return -1;
    found->slots[at] = hash << 32 | (uint64_t)found->n;
    if (found->n == found->n_room && !grow(found)) return -1;
    return found->n - 1;
}

enum outcome { CODED, PLAIN, BROKEN, NO_MEMORY };

static int64_t width_of(int64_t n) { return n <= 256 ? 1 : n <= 65536 ? 2 : 4; }

/* Find the distinct texts; `bytes` becomes what all rows come to, or -1 where it was given up before. */
static enum outcome look_up(const Column *column, Dictionary *found, int64_t *bytes) {
    int64_t look = FIRST_LOOK;
    if ((found->codes = malloc((size_t)(column->count + 1) * sizeof *found->codes)) == NULL || !grow(found)) return NO_MEMORY;
    *bytes = 0;
    for (int64_t at = 0; at < column->count; at++) {
        int32_t length;
        const char *text = text_of(column, row_of(column, at), &length);
        if (text == NULL) return BROKEN;
        int64_t code = code_of(found, text, length);
        if (code < 0) return NO_MEMORY;
        found->codes[at] = (int32_t)code;
        *bytes += length;
        if (at + 1 == look) {
            if (found->n * 10 > look * 9) {
                *bytes = -1;
                return PLAIN;
            }
            look *= 2;
        }
    }
    return found->bytes + 4 * found->n + width_of(found->n) * column->count < *bytes + 4 * column->count ? CODED : PLAIN;
}

static int64_t bytes_of(const Column *column) {
    int64_t bytes = 0;
    for (int64_t at = 0; at < column->count; at++) {
        int32_t length;
        if (text_of(column, row_of(column, at), &length) == NULL) return -1;
        bytes += length;
    }
    return bytes;
}

/* --- Python */

static PyObject *validity_of(const Column *column, int64_t *nulls) {
    *nulls = 0;
    if (column->validity == NULL) Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(column->count + 7) / 8);
    if (made == NULL) return NULL;
    uint8_t *bits = (uint8_t *)PyBytes_AsString(made);
    memset(bits, 0, (size_t)(column->count + 7) / 8);
    for (int64_t at = 0; at < column->count; at++) {
        bool given = is_given(column, row_of(column, at));
        bits[at >> 3] |= (uint8_t)(given << (at & 7));
        *nulls += !given;
    }
    if (*nulls > 0) return made;
    Py_DECREF(made);
    Py_RETURN_NONE;
}

static PyObject *indices_of(const Dictionary *found, int64_t count, int64_t width) {
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * width));
    if (made == NULL) return NULL;
    char *out = PyBytes_AsString(made);
    for (int64_t at = 0; at < count; at++) {
        int32_t code = found->codes[at];
        if (width == 1) {
            out[at] = (char)(uint8_t)code;
        } else if (width == 2) {
            ((uint16_t *)out)[at] = (uint16_t)code;
        } else {
            ((uint32_t *)out)[at] = (uint32_t)code;
        }
    }
    return made;
}

/* Offsets and text of all rows. */
static bool plain_texts(const Column *column, int64_t bytes, PyObject **offsets, PyObject **text) {
    *offsets = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(column->count + 1) * 4);
    *text = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
    if (*offsets == NULL || *text == NULL) return false;
    int32_t *ends = (int32_t *)PyBytes_AsString(*offsets), done = 0;
    char *out = PyBytes_AsString(*text);
    Py_BEGIN_ALLOW_THREADS
    for (int64_t at = 0; at < column->count; at++) {
        int32_t length;
        const char *from = text_of(column, row_of(column, at), &length);
        memcpy(out + done, from, (size_t)length);
        *ends++ = done;
        done += length;
    }
    *ends = done;
    Py_END_ALLOW_THREADS
    return true;
}

static bool distinct_texts(const Dictionary *found, PyObject **offsets, PyObject **text) {
    *offsets = PyBytes_FromStringAndSize((const char *)found->ends, (Py_ssize_t)(found->n + 1) * 4);
    *text = PyBytes_FromStringAndSize(found->text, (Py_ssize_t)found->bytes);
    return *offsets != NULL && *text != NULL;
}

static PyObject *packed(const Column *column) {
    Dictionary found = {0};
    enum outcome outcome;
    int64_t bytes, nulls;
    Py_BEGIN_ALLOW_THREADS
    outcome = look_up(column, &found, &bytes);
    if (outcome == PLAIN && bytes < 0 && (bytes = bytes_of(column)) < 0) outcome = BROKEN;
    Py_END_ALLOW_THREADS
    PyObject *validity = NULL, *indices = NULL, *offsets = NULL, *text = NULL, *made = NULL;
    if (outcome == NO_MEMORY) {
        PyErr_NoMemory();
    } else if (outcome == BROKEN) {
        PyErr_SetString(PyExc_ValueError, "a string view points outside of its texts");
    } else if (bytes > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "the texts are beyond 2 GB: pack fewer rows");
    } else {
        int64_t width = width_of(found.n);
        bool coded = outcome == CODED;
        indices = coded ? indices_of(&found, column->count, width) : Py_NewRef(Py_None);
        validity = indices != NULL ? validity_of(column, &nulls) : NULL;
        if (validity != NULL && (coded ? distinct_texts(&found, &offsets, &text) : plain_texts(column, bytes, &offsets, &text)))
            made = Py_BuildValue("LOLOOO", (long long)nulls, validity, (long long)width, indices, offsets, text);
    }
    Py_XDECREF(validity);
    Py_XDECREF(indices);
    Py_XDECREF(offsets);
    Py_XDECREF(text);
    forget(&found);
    return made;
}

static bool is_within(const Column *column, int64_t n_views, int64_t n_valid, int64_t n_places) {
    if (column->first < 0 || column->count < 0) return false;
    int64_t last = column->first + column->count;
    if (column->places == NULL) return last <= n_views && (column->validity == NULL || last <= n_valid);
    if (last > n_places) return false;
    for (int64_t at = 0; at < column->count; at++) {
        int64_t row = row_of(column, at);
        if (row < 0 || row >= n_views || (column->validity != NULL && row >= n_valid)) return false;
    }
    return true;
}

typedef struct {
    Py_buffer views, validity, *texts;
    Py_ssize_t n_texts;
} Given;

/* Take the buffers of a column; they are given back by give_back, whatever this returns. */
static bool take_column(Given *given, PyObject *texts, Column *column) {
    Py_ssize_t n_texts = PySequence_Size(texts);
    if (n_texts < 0) return false;
    given->texts = calloc((size_t)n_texts + 1, sizeof *given->texts);
    column->texts = calloc((size_t)n_texts + 1, sizeof *column->texts);
    if (given->texts == NULL || column->texts == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < n_texts; i++) {
        PyObject *text = PySequence_GetItem(texts, i);
        bool taken = text != NULL && PyObject_GetBuffer(text, &given->texts[i], PyBUF_SIMPLE) == 0;
        Py_XDECREF(text);
        if (!taken) return false;
        given->n_texts++;
        column->texts[column->n_texts++] = (Text){given->texts[i].buf, given->texts[i].len};
    }
    column->views = given->views.buf;
    column->validity = given->validity.buf;
    return true;
}

static void give_back(Given *given, Column *column) {
    for (Py_ssize_t i = 0; i < given->n_texts; i++) PyBuffer_Release(&given->texts[i]);
    free(given->texts);
    free(column->texts);
    PyBuffer_Release(&given->views);
    if (given->validity.obj != NULL) PyBuffer_Release(&given->validity);
}

static PyObject *pack(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *texts, *made = NULL;
    Given given = {0};
    Py_buffer places = {0};
    Column column = {0};
    long long first, count;
    if (!PyArg_ParseTuple(args, "y*Oz*z*LL", &given.views, &texts, &given.validity, &places, &first, &count)) return NULL;
    column.places = places.buf;
    column.first = first;
    column.count = count;
    if (take_column(&given, texts, &column)) {
        if (is_within(&column, given.views.len / 16, given.validity.len * 8, places.len / 8)) made = packed(&column);
        else PyErr_SetString(PyExc_ValueError, "rows outside of the column");
    }
    give_back(&given, &column);
    if (places.obj != NULL) PyBuffer_Release(&places);
    return made;
}

/* Views that were seen: the same 16 bytes are the same text, which need not be looked at again. Views into a dictionary,
 * or into a table that was joined, are few, however many rows have them. */
#define N_SEEN 1024
typedef struct {
    uint64_t view[2];
    int32_t code; /* + 1: 0 is an empty place */
} Seen;

static inline Seen *place_of(Seen *seen, const View *view, uint64_t key[2]) {
    memcpy(key, view, 16);
    return seen + (mixed(key[0] ^ 0xE7037ED1A0B428DBu, key[1] ^ 0x8EBC6AF09C88C6E3u) & (N_SEEN - 1));
}

/* Number the texts of a column; `rows` has room for the first row of each. */
static enum outcome number_texts(const Column *column, Dictionary *found, int32_t *codes, int64_t *rows) {
    Seen seen[N_SEEN];
    memset(seen, 0, sizeof seen);
    if (!grow(found)) return NO_MEMORY;
    for (int64_t row = 0; row < column->count; row++) {
        int32_t length;
        uint64_t key[2];
        if (!is_given(column, row)) {
            codes[row] = -1;
            continue;
        }
        Seen *place = place_of(seen, column->views + row, key);
        if (place->code && place->view[0] == key[0] && place->view[1] == key[1]) {
            codes[row] = place->code - 1;
            continue;
        }
        const char *text = text_of(column, row, &length);
        if (text == NULL) return BROKEN;
        int64_t known = found->n, code = code_of(found, text, length);
        if (code < 0) return NO_MEMORY;
        if (found->n > known) rows[code] = row;
        codes[row] = (int32_t)code;
        *place = (Seen){{key[0], key[1]}, (int32_t)code + 1};
    }
    return CODED;
}

/* --- numbers told apart: open addressing by a hash, as for texts */

typedef struct {
    int64_t value;
    int32_t code; /* + 1: 0 is an empty slot */
} Slot;

typedef struct {
    Slot *slots;
    int64_t n_slots, n;
} Numbers;

static inline Slot *slot_of(const Numbers *found, int64_t value) {
    int64_t at = (int64_t)(mixed((uint64_t)value ^ 0x9E3779B97F4A7C15u, 0xE7037ED1A0B428DBu) >> 7) & (found->n_slots - 1);
    while (found->slots[at].code && found->slots[at].value != value) at = (at + 1) & (found->n_slots - 1);
    return found->slots + at;
}

/* Four times the slots, at most half of them in use. */
static bool widen(Numbers *found) {
    Numbers wider = {NULL, found->n_slots ? 4 * found->n_slots : 1024, found->n};
    if ((wider.slots = calloc((size_t)wider.n_slots, sizeof *wider.slots)) == NULL) return false;
    for (int64_t i = 0; i < found->n_slots; i++)
        if (found->slots[i].code) *slot_of(&wider, found->slots[i].value) = found->slots[i];
    free(found->slots);
    *found = wider;
    return true;
}

static bool number_values(const int64_t *values, int64_t count, Numbers *found, int32_t *codes, int64_t *rows) {
    if (!widen(found)) return false;
    for (int64_t row = 0; row < count; row++) {
        if (row > 0 && values[row] == values[row - 1]) {
            codes[row] = codes[row - 1];
            continue;
        }
        Slot *slot = slot_of(found, values[row]);
        if (!slot->code) {
            rows[found->n++] = row;
            *slot = (Slot){values[row], (int32_t)found->n};
            codes[row] = slot->code - 1;
            if (2 * found->n > found->n_slots && !widen(found)) return false;
        } else {
            codes[row] = slot->code - 1;
        }
    }
    return true;
}

static PyObject *numbers(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer values = {0};
    Numbers found = {0};
    PyObject *made = NULL, *first_rows = NULL;
    if (!PyArg_ParseTuple(args, "y*", &values)) return NULL;
    const int64_t count = values.len / 8;
    bool done = false;
    PyObject *codes = count < INT32_MAX ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * 4) : NULL;
    int64_t *rows = malloc((size_t)(count + 1) * sizeof *rows);
    if (codes != NULL && rows != NULL) {
        int32_t *out = (int32_t *)PyBytes_AsString(codes);
        Py_BEGIN_ALLOW_THREADS
        done = number_values(values.buf, count, &found, out, rows);
        Py_END_ALLOW_THREADS
    }
    if (done) first_rows = PyBytes_FromStringAndSize((const char *)rows, (Py_ssize_t)found.n * 8);
    else if (!PyErr_Occurred()) PyErr_NoMemory();
    if (first_rows != NULL) made = PyTuple_Pack(2, codes, first_rows);
    Py_XDECREF(codes);
    Py_XDECREF(first_rows);
    free(rows);
    free(found.slots);
    PyBuffer_Release(&values);
    return made;
}

static PyObject *coded(const Column *column) {
    Dictionary found = {0};
    enum outcome outcome = NO_MEMORY;
    PyObject *made = NULL, *first_rows = NULL;
    PyObject *codes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)column->count * 4);
    int64_t *rows = malloc((size_t)(column->count + 1) * sizeof *rows);
    if (codes != NULL && rows != NULL) {
        int32_t *out = (int32_t *)PyBytes_AsString(codes);
        Py_BEGIN_ALLOW_THREADS
        outcome = number_texts(column, &found, out, rows);
        Py_END_ALLOW_THREADS
    }
    if (outcome == CODED) first_rows = PyBytes_FromStringAndSize((const char *)rows, (Py_ssize_t)found.n * 8);
    else if (outcome == BROKEN) PyErr_SetString(PyExc_ValueError, "a string view points outside of its texts");
    else PyErr_NoMemory();
    if (first_rows != NULL) made = PyTuple_Pack(2, codes, first_rows);
    Py_XDECREF(codes);
    Py_XDECREF(first_rows);
    free(rows);
    forget(&found);
    return made;
}

#define NOT_ASCII 0x8080808080808080u

static inline bool is_ascii(const char *text, int32_t length) { /* longer than 12 bytes */
    const char *tail = text + length - 8;
    uint64_t all = word8(tail);
    for (; text < tail; text += 8) all |= word8(text);
    return !(all & NOT_ASCII);
}

/* Up to 12 bytes stand in the view itself, and zeros behind them. */
static inline bool is_short_ascii(const View *view) {
    uint64_t first = word8(view->prefix), last = word4(view->prefix + 8);
    if ((first | last) & NOT_ASCII) return false;
    if (view->length >= 12) return true;
    if (view->length >= 8) return last >> 8 * (view->length - 8) == 0;
    return last == 0 && first >> 8 * view->length == 0;
}

/* The rows that are null, or -1. */
static int64_t nulls_of_sound(const Column *column) {
    int64_t nulls = 0;
    for (int64_t row = 0; row < column->count; row++) {
        int32_t length;
        if (!is_given(column, row)) {
            nulls++;
            continue;
        }
        const View *view = column->views + row;
        const char *text = text_of(column, row, &length);
        if (text == NULL) return -1;
        if (length <= 12 ? !is_short_ascii(view) : word4(text) != word4(view->prefix) || !is_ascii(text, length)) return -1;
    }
    return nulls;
}

static PyObject *sound(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *texts;
    Given given = {0};
    Column column = {0};
    long long count;
    int64_t nulls = -1;
    if (!PyArg_ParseTuple(args, "y*Oz*L", &given.views, &texts, &given.validity, &count)) return NULL;
    column.count = count;
    const bool taken = take_column(&given, texts, &column);
    if (taken && is_within(&column, given.views.len / 16, given.validity.len * 8, 0)) {
        Py_BEGIN_ALLOW_THREADS
        nulls = nulls_of_sound(&column);
        Py_END_ALLOW_THREADS
    }
    give_back(&given, &column);
    if (!taken) return NULL;
    if (nulls < 0) Py_RETURN_NONE;
    return PyLong_FromLongLong((long long)nulls);
}

static PyObject *total(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer views = {0}, validity = {0};
    Column column = {0};
    long long count;
    int64_t sum = 0;
    if (!PyArg_ParseTuple(args, "y*z*L", &views, &validity, &count)) return NULL;
    column.views = views.buf;
    column.validity = validity.buf;
    column.count = count;
    const bool within = is_within(&column, views.len / 16, validity.len * 8, 0);
    for (int64_t row = 0; within && row < count; row++)
        if (is_given(&column, row)) sum += column.views[row].length;
    PyBuffer_Release(&views);
    if (validity.obj != NULL) PyBuffer_Release(&validity);
    if (within) return PyLong_FromLongLong((long long)sum);
    PyErr_SetString(PyExc_ValueError, "rows outside of the column");
    return NULL;
}

static PyObject *codes(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *texts, *made = NULL;
    Given given = {0};
    Column column = {0};
    long long count;
    if (!PyArg_ParseTuple(args, "y*Oz*L", &given.views, &texts, &given.validity, &count)) return NULL;
    column.count = count;
    if (take_column(&given, texts, &column)) {
        if (is_within(&column, given.views.len / 16, given.validity.len * 8, 0)) made = coded(&column);
        else PyErr_SetString(PyExc_ValueError, "rows outside of the column");
    }
    give_back(&given, &column);
    return made;
}

static bool set_view(View *view, const char *text, int64_t size, int32_t begin, int32_t end) {
    if (begin < 0 || end < begin || end > size) return false;
    const int32_t buffer = 0;
    memset(view, 0, sizeof *view);
    view->length = end - begin;
    if (view->length <= 12) {
        memcpy(view->prefix, text + begin, (size_t)view->length);
    } else {
        memcpy(view->prefix, text + begin, 4);
        memcpy(view->prefix + 4, &buffer, 4);
        memcpy(view->prefix + 8, &begin, 4);
    }
    return true;
}

static bool set_views(View *out, const int32_t *offsets, int64_t n, const char *text, int64_t size) {
    for (int64_t i = 0; i < n; i++)
        if (!set_view(out + i, text, size, offsets[i], offsets[i + 1])) return false;
    return true;
}

static bool take_views(View *out, const View *distinct, int64_t n, const void *indices, int64_t width, int64_t count) {
    for (int64_t row = 0; row < count; row++) {
        uint32_t index = width == 1 ? ((const uint8_t *)indices)[row] : width == 2 ? ((const uint16_t *)indices)[row] : ((const uint32_t *)indices)[row];
        if (index >= n) return false;
        out[row] = distinct[index];
    }
    return true;
}

static PyObject *views(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer offsets = {0}, text = {0}, indices = {0};
    long long width, count;
    PyObject *made = NULL;
    if (!PyArg_ParseTuple(args, "y*y*z*LL", &offsets, &text, &indices, &width, &count)) return NULL;
    const bool indexed = indices.buf != NULL;
    const int64_t n = offsets.len / 4 - 1; /* texts */
    bool fits = count >= 0 && count < INT64_MAX / 16 && text.len <= INT32_MAX && (n >= 0 || count == 0);
    fits = fits && (indexed ? (width == 1 || width == 2 || width == 4) && indices.len / width >= count : n >= count);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the buffers do not hold so many texts");
    } else if ((made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * 16)) != NULL) {
        View *out = (View *)PyBytes_AsString(made), *distinct = indexed ? malloc((size_t)(n > 0 ? n : 0) * sizeof *distinct + 1) : out;
        bool sound = distinct != NULL && set_views(distinct, offsets.buf, indexed ? n : count, text.buf, text.len);
        if (sound && indexed) sound = take_views(out, distinct, n, indices.buf, width, count);
        if (!sound) {
            Py_CLEAR(made);
            if (distinct == NULL) PyErr_NoMemory();
            else PyErr_SetString(PyExc_ValueError, "an offset or an index points outside of the texts");
        }
        if (indexed) free(distinct);
    }
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&text);
    if (indices.obj != NULL) PyBuffer_Release(&indices);
    return made;
}

static PyMethodDef METHODS[] = {
    {"total", total, METH_VARARGS, "The bytes of the texts of string views."},
    {"codes", codes, METH_VARARGS, "The number of each text among the distinct ones."},
    {"sound", sound, METH_VARARGS, "How many rows of string views are null, where all are sound and ASCII."},
    {"views", views, METH_VARARGS, "The string views of a utf8 array, or of a dictionary of utf8."},
    {"numbers", numbers, METH_VARARGS, "The number of each int64 among the distinct ones."},
    {"pack", pack, METH_VARARGS, "Texts as a dictionary and indices, or plain, whichever is smaller."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_texts", "Columns of texts, packed.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__texts(void) { return PyModule_Create(&MODULE); }
