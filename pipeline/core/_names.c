/* Many byte strings as two buffers and not as a Python object each: a directory of them, their order, rows made of them.
 *
 * A column of names is (data, starts, ends): name i is data[starts[i]:ends[i]], starts and ends int64. What is made here
 * is (data, ends): one name after the other.
 *
 *   Directory()                                 names by number, in the order they came first
 *     .numbers(data, starts, ends)            → int32 of each; new ones are added
 *     .names(numbers)                         → (data, ends) of those numbers (int32), or of all (None)
 *   order(data, starts, ends)                 → int64: the places of the names in bytewise order, equal ones as they came
 *   joined(parts, count)                      → (data, ends): row by row the parts, each bytes or a column
 *   arguments(columns, count)                 → bytes: row by row the columns' names as Redis takes arguments
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_hash.h"

#define MAX_NAMES INT32_MAX

/* Of this process: who sends names that fall into one slot here has to know it. */
static uint64_t seed;

/* --- columns */

typedef struct {
    Py_buffer data, starts, ends;
    const char *text; /* of a part that is the same in every row: its bytes, and how many */
    int64_t size;
    int64_t count;
    bool is_column;
} Names;

static inline const char *name_of(const Names *names, int64_t at, int64_t *length) {
    if (!names->is_column) {
        *length = names->size;
        return names->text;
    }
    const int64_t begin = ((const int64_t *)names->starts.buf)[at];
    *length = ((const int64_t *)names->ends.buf)[at] - begin;
    return names->text + begin;
}

static void give_back(Names *names) {
    if (names->data.obj != NULL) PyBuffer_Release(&names->data);
    if (names->starts.obj != NULL) PyBuffer_Release(&names->starts);
    if (names->ends.obj != NULL) PyBuffer_Release(&names->ends);
}

/* Take a column whose three buffers are given already; false with an error set where they do not fit together. */
static bool is_sound(Names *names) {
    names->is_column = true;
    names->text = names->data.buf;
    names->size = names->data.len;
    names->count = names->ends.len / 8;
    const int64_t *starts = names->starts.buf, *ends = names->ends.buf;
    bool fits = names->starts.len == names->ends.len && names->ends.len % 8 == 0 && names->count <= MAX_NAMES;
    for (int64_t i = 0; fits && i < names->count; i++)
        fits = starts[i] >= 0 && starts[i] <= ends[i] && ends[i] <= names->size && ends[i] - starts[i] <= INT32_MAX;
    if (!fits) PyErr_SetString(PyExc_ValueError, "the names do not lie within their data");
    return fits;
}

static bool take_names(Names *names, PyObject *args) {
    return PyArg_ParseTuple(args, "y*y*y*", &names->data, &names->starts, &names->ends) && is_sound(names);
}

/* One part of rows: bytes, or a column of `count` names. */
static bool take_part(Names *part, PyObject *given, int64_t count) {
    if (PyBytes_Check(given)) {
        if (PyObject_GetBuffer(given, &part->data, PyBUF_SIMPLE) < 0) return false;
        part->text = part->data.buf;
        part->size = part->data.len;
        return true;
    }
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a part is bytes or a column of names");
        return false;
    }
    if (!take_names(part, given)) return false;
    if (part->count == count) return true;
    PyErr_SetString(PyExc_ValueError, "a column has not as many names as there are rows");
    return false;
}

static void give_back_parts(Names *parts, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) give_back(parts + i);
    free(parts);
}

/* The parts of rows, and how many they are; NULL with an error where one does not fit. */
static Names *take_parts(PyObject *given, long long count, Py_ssize_t *n) {
    if ((*n = PySequence_Size(given)) < 0) return NULL;
    if (count < 0 || count > MAX_NAMES) {
        PyErr_SetString(PyExc_ValueError, "too many rows");
        return NULL;
    }
    Names *parts = calloc((size_t)*n + 1, sizeof *parts);
    if (parts == NULL) return (Names *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < *n; i++) {
        PyObject *each = PySequence_GetItem(given, i);
        const bool taken = each != NULL && take_part(parts + i, each, count);
        Py_XDECREF(each);
        if (!taken) {
            give_back_parts(parts, *n);
            return NULL;
        }
    }
    return parts;
}

/* --- the directory */

typedef struct {
    char *text;      /* the names, one after the other */
    uint32_t *ends;  /* n + 1: where each begins and the last one ends */
    uint32_t *slots; /* open addressing: the number of a name + 1 */
    uint8_t *tags;   /* of each slot the upper bits of the name's hash: few others are looked at */
    int64_t n, n_room, n_slots, text_room;
} Table;

typedef struct {
    PyObject_HEAD
    Table table;
} Directory;

static inline void put(uint32_t *slots, uint8_t *tags, int64_t n_slots, uint32_t hash, int64_t number) {
    int64_t at = (int64_t)hash & (n_slots - 1);
    while (slots[at]) at = (at + 1) & (n_slots - 1);
    slots[at] = (uint32_t)number + 1;
    tags[at] = (uint8_t)(hash >> 24);
}

/* Room for twice as many names, and slots that are half empty at least. */
static bool grow(Table *table) {
    const int64_t n_room = table->n_room ? 2 * table->n_room : 64, n_slots = 2 * n_room;
    uint32_t *ends = realloc(table->ends, (size_t)(n_room + 1) * sizeof *ends);
    if (ends == NULL) return false;
    if (table->ends == NULL) ends[0] = 0;
    table->ends = ends;
    uint32_t *slots = calloc((size_t)n_slots, sizeof *slots);
    uint8_t *tags = malloc((size_t)n_slots);
    if (slots == NULL || tags == NULL) {
        free(slots);
        free(tags);
        return false;
    }
    for (int64_t i = 0; i < table->n; i++)
        put(slots, tags, n_slots, hash_of(seed, table->text + ends[i], (int32_t)(ends[i + 1] - ends[i])), i);
    free(table->slots);
    free(table->tags);
    table->slots = slots;
    table->tags = tags;
    table->n_room = n_room;
    table->n_slots = n_slots;
    return true;
}

static bool keep(Table *table, const char *text, int64_t length) {
    const int64_t used = table->ends[table->n];
    if (used + length > UINT32_MAX) return false;
    if (used + length > table->text_room) {
        const int64_t room = table->text_room + table->text_room / 4 + length + 1024;
        char *grown = realloc(table->text, (size_t)room);
        if (grown == NULL) return false;
        table->text = grown;
        table->text_room = room;
    }
    if (length > 0) memcpy(table->text + used, text, (size_t)length);
    table->ends[++table->n] = (uint32_t)(used + length);
    return true;
}

/* The number of a name; -1 where there is no memory for it. */
static inline int64_t number_of(Table *table, const char *text, int64_t length) {
    if (table->n == table->n_room && (table->n >= MAX_NAMES || !grow(table))) return -1;
    const uint32_t hash = hash_of(seed, text, (int32_t)length);
    int64_t at = (int64_t)hash & (table->n_slots - 1);
    for (uint32_t slot; (slot = table->slots[at]) != 0; at = (at + 1) & (table->n_slots - 1)) {
        if (table->tags[at] != (uint8_t)(hash >> 24)) continue;
        const int64_t i = (int64_t)slot - 1, begin = table->ends[i];
        if (table->ends[i + 1] - begin == length && is_same(table->text + begin, text, (int32_t)length)) return i;
    }
    if (!keep(table, text, length)) return -1;
    put(table->slots, table->tags, table->n_slots, hash, table->n - 1);
    return table->n - 1;
}

static PyObject *directory_numbers(PyObject *self, PyObject *args) {
    Table *table = &((Directory *)self)->table;
    Names names = {0};
    PyObject *made = NULL;
    if (take_names(&names, args) && (made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)names.count * 4)) != NULL) {
        int32_t *out = (int32_t *)PyBytes_AsString(made);
        for (int64_t i = 0; i < names.count; i++) {
            int64_t length;
            const char *text = name_of(&names, i, &length);
            const int64_t number = number_of(table, text, length);
            if (number < 0) {
                Py_CLEAR(made);
                PyErr_NoMemory();
                break;
            }
            out[i] = (int32_t)number;
        }
    }
    give_back(&names);
    return made;
}

static bool sizes_of(const Table *table, const int32_t *numbers, int64_t count, int64_t *size) {
    *size = 0;
    for (int64_t i = 0; i < count; i++) {
        if (numbers[i] < 0 || numbers[i] >= table->n) return false;
        *size += (int64_t)table->ends[numbers[i] + 1] - table->ends[numbers[i]];
    }
    return true;
}

static PyObject *directory_names(PyObject *self, PyObject *args) {
    const Table *table = &((Directory *)self)->table;
    Py_buffer given = {0};
    PyObject *data = NULL, *ends = NULL, *made = NULL;
    if (!PyArg_ParseTuple(args, "z*", &given)) return NULL;
    const int32_t *numbers = given.buf;
    const int64_t count = numbers == NULL ? table->n : given.len / 4;
    int64_t size = table->n ? table->ends[table->n] : 0;
    if (numbers != NULL && !sizes_of(table, numbers, count, &size)) {
        PyErr_SetString(PyExc_ValueError, "there is no name of such a number");
        goto done;
    }
    data = PyBytes_FromStringAndSize(numbers == NULL ? table->text : NULL, (Py_ssize_t)size);
    ends = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * 8);
    if (data == NULL || ends == NULL) goto done;
    int64_t *out = (int64_t *)PyBytes_AsString(ends);
    if (numbers == NULL) {
        for (int64_t i = 0; i < count; i++) out[i] = table->ends[i + 1];
    } else {
        char *text = PyBytes_AsString(data);
        int64_t used = 0;
        for (int64_t i = 0; i < count; i++) {
            const int64_t begin = table->ends[numbers[i]], length = (int64_t)table->ends[numbers[i] + 1] - begin;
            if (length) memcpy(text + used, table->text + begin, (size_t)length);
            out[i] = used += length;
        }
    }
    made = PyTuple_Pack(2, data, ends);
done:
    Py_XDECREF(data);
    Py_XDECREF(ends);
    if (given.obj != NULL) PyBuffer_Release(&given);
    return made;
}

static Py_ssize_t directory_length(PyObject *self) { return (Py_ssize_t)((Directory *)self)->table.n; }

static void directory_free(PyObject *self) {
    Table *table = &((Directory *)self)->table;
    free(table->text);
    free(table->ends);
    free(table->slots);
    free(table->tags);
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef DIRECTORY_METHODS[] = {
    {"numbers", directory_numbers, METH_VARARGS, "The number of each name; new ones are added."},
    {"names", directory_names, METH_VARARGS, "The names of some numbers, or all."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot DIRECTORY_SLOTS[] = {
    {Py_tp_dealloc, (void *)directory_free},
    {Py_tp_methods, DIRECTORY_METHODS},
    {Py_sq_length, (void *)directory_length},
    {0, NULL},
};

static PyType_Spec DIRECTORY = {"pipeline.core._names.Directory", sizeof(Directory), 0, Py_TPFLAGS_DEFAULT, DIRECTORY_SLOTS};

/* --- order */

typedef struct {
    uint64_t key; /* the first eight bytes after what all have in common, as a number that orders as they do */
    const char *rest;
    int32_t length, at;
} Place;

static int by_name(const void *one, const void *other) {
    const Place *a = one, *b = other;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    const int32_t shorter = a->length < b->length ? a->length : b->length;
    const int order = shorter > 8 ? memcmp(a->rest + 8, b->rest + 8, (size_t)shorter - 8) : 0;
    if (order != 0) return order;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static int64_t common_of(const Names *names) {
    int64_t common, length;
    const char *first = name_of(names, 0, &common);
    for (int64_t i = 1; i < names->count && common > 0; i++) {
        const char *text = name_of(names, i, &length);
        int64_t same = 0;
        while (same < common && same < length && text[same] == first[same]) same++;
        common = same;
    }
    return common;
}

static void set_places(const Names *names, Place *places) {
    const int64_t common = names->count ? common_of(names) : 0;
    for (int64_t i = 0; i < names->count; i++) {
        int64_t length;
        const char *text = name_of(names, i, &length) + common;
        length -= common;
        uint64_t key = 0;
        for (int64_t j = 0; j < 8; j++) key = key << 8 | (j < length ? (uint8_t)text[j] : 0);
        places[i] = (Place){key, text, (int32_t)length, (int32_t)i};
    }
}

static PyObject *order(PyObject *self, PyObject *args) {
    (void)self;
    Names names = {0};
    PyObject *made = NULL;
    if (take_names(&names, args) && (made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)names.count * 8)) != NULL) {
        Place *places = malloc((size_t)names.count * sizeof *places + 1);
        if (places == NULL) {
            Py_CLEAR(made);
            PyErr_NoMemory();
        } else {
            set_places(&names, places);
            qsort(places, (size_t)names.count, sizeof *places, by_name);
            int64_t *out = (int64_t *)PyBytes_AsString(made);
            for (int64_t i = 0; i < names.count; i++) out[i] = places[i].at;
            free(places);
        }
    }
    give_back(&names);
    return made;
}

/* --- rows */

static void write_rows(const Names *parts, Py_ssize_t n, int64_t count, char *text, int64_t *ends) {
    int64_t used = 0;
    for (int64_t row = 0; row < count; row++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            int64_t length;
            const char *from = name_of(parts + i, row, &length);
            if (length) memcpy(text + used, from, (size_t)length);
            used += length;
        }
        ends[row] = used;
    }
}

static PyObject *joined(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *given, *data = NULL, *ends = NULL, *made = NULL;
    long long count;
    if (!PyArg_ParseTuple(args, "OL", &given, &count)) return NULL;
    Py_ssize_t n;
    Names *parts = take_parts(given, count, &n);
    if (parts == NULL) return NULL;
    int64_t size = 0, length;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!parts[i].is_column) size += count * parts[i].size;
        for (int64_t row = 0; parts[i].is_column && row < count; row++) {
            name_of(parts + i, row, &length);
            size += length;
        }
    }
    data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    ends = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * 8);
    if (data != NULL && ends != NULL) {
        write_rows(parts, n, count, PyBytes_AsString(data), (int64_t *)PyBytes_AsString(ends));
        made = PyTuple_Pack(2, data, ends);
    }
    Py_XDECREF(data);
    Py_XDECREF(ends);
    give_back_parts(parts, n);
    return made;
}

static int digits_of(int64_t number, char *out) {
    char turned[20];
    int n = 0;
    do turned[n++] = (char)('0' + number % 10);
    while (number /= 10);
    for (int i = 0; i < n; i++) out[i] = turned[n - 1 - i];
    return n;
}

/* `$LENGTH\r\n` name `\r\n`; returns how many bytes that is. */
static int64_t write_argument(char *out, const char *text, int64_t length) {
    int64_t used = 0;
    out[used++] = '$';
    used += digits_of(length, out + used);
    out[used++] = '\r', out[used++] = '\n';
    if (length) memcpy(out + used, text, (size_t)length);
    used += length;
    out[used++] = '\r', out[used++] = '\n';
    return used;
}

static int64_t argument_size(int64_t length) {
    char digits[20];
    return 5 + digits_of(length, digits) + length;
}

static PyObject *arguments(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *given, *made = NULL;
    long long count;
    if (!PyArg_ParseTuple(args, "OL", &given, &count)) return NULL;
    Py_ssize_t n;
    Names *parts = take_parts(given, count, &n);
    if (parts == NULL) return NULL;
    int64_t size = 0, length;
    for (int64_t row = 0; row < count; row++)
        for (Py_ssize_t i = 0; i < n; i++) {
            name_of(parts + i, row, &length);
            size += argument_size(length);
        }
    if ((made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size)) != NULL) {
        char *out = PyBytes_AsString(made);
        for (int64_t row = 0; row < count; row++)
            for (Py_ssize_t i = 0; i < n; i++) {
                const char *text = name_of(parts + i, row, &length);
                out += write_argument(out, text, length);
            }
    }
    give_back_parts(parts, n);
    return made;
}

static PyMethodDef METHODS[] = {
    {"order", order, METH_VARARGS, "The places of names in bytewise order."},
    {"joined", joined, METH_VARARGS, "Rows of parts, one after the other."},
    {"arguments", arguments, METH_VARARGS, "Rows of names as arguments of a command."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_names", "Columns of names.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__names(void) {
    PyObject *module = PyModule_Create(&MODULE), *directory = NULL, *secret = PyBytes_FromString("names");
    if (module == NULL || secret == NULL) {
        Py_XDECREF(module);
        Py_XDECREF(secret);
        return NULL;
    }
    seed = (uint64_t)PyObject_Hash(secret); /* Python's own hash of bytes is another one in every process */
    Py_DECREF(secret);
    directory = PyType_FromSpec(&DIRECTORY);
    if (directory == NULL || PyModule_AddObjectRef(module, "Directory", directory) < 0) Py_CLEAR(module);
    Py_XDECREF(directory);
    return module;
}
