/* What a greenlet owns of a PyThreadState, saved and loaded around a switch.
 *
 * Compiled against the headers of the interpreter that the wheel is for: a field that a version removed is a compile
 * error here, where offsets written by hand would corrupt memory. Only Python.h is needed.
 *
 * Not saved, as they belong to the thread: tracing and profiling, the running asyncio loop and task, the cached
 * data-stack chunk, and from 3.14 on the objects whose deletion was put off.
 *
 * From 3.14 on CPython does not count C recursion but compares the stack pointer with the bounds of the thread's stack:
 * to refuse recursion, and to put the deletion of containers off (the trashcan). The bounds of a greenlet's stack are
 * set whenever it is switched to; those of the thread's own stack are set back for the root.
 */
#include <Python.h>
#include <stddef.h>
#include <string.h>

#if PY_VERSION_HEX < 0x030B0000
#error "greenrust needs CPython 3.11 or later"
#endif

#if PY_VERSION_HEX >= 0x030E0000
/* 3.14.0 lacks them, in its headers too: the module must say so when it is imported, where the loader would only name a
 * symbol. */
PyAPI_FUNC(int) PyUnstable_ThreadState_SetStackProtection(PyThreadState *, void *, size_t) __attribute__((weak));
PyAPI_FUNC(void) PyUnstable_ThreadState_ResetStackProtection(PyThreadState *) __attribute__((weak));
#endif

typedef struct {
    _PyErr_StackItem *exc_info;
    _PyErr_StackItem exc_state;
    PyObject *context;
    _PyStackChunk *datastack_chunk;
    PyObject **datastack_top;
    PyObject **datastack_limit;
#if PY_VERSION_HEX < 0x030D0000
    _PyCFrame *cframe;
    _PyCFrame base_cframe;
#else
    struct _PyInterpreterFrame *current_frame;
    uintptr_t critical_section;
#if PY_VERSION_HEX < 0x030E0000
    PyObject *delete_later;
#else
    /* A strong reference: CPython frees compiled code that no thread's state names. */
    PyObject *current_executor;
    /* The lowest address and the size of the greenlet's stack; 0 for the thread's own. */
    void *stack_limit;
    size_t stack_usable;
#endif
#endif
    int py_depth;
#if PY_VERSION_HEX < 0x030E0000
    int c_recursion_remaining;
    int trash_delete_nesting;
#endif
} greenrust_thread_state;

const size_t greenrust_thread_state_size = sizeof(greenrust_thread_state);

/* Why this interpreter can't run greenlets on stacks of their own, or NULL if it can. */
const char *greenrust_unsupported(void)
{
#ifdef Py_GIL_DISABLED
    return "free-threaded builds of CPython are not supported yet: use the ordinary build";
#elif PY_VERSION_HEX >= 0x030E0000
    if (PyUnstable_ThreadState_SetStackProtection == NULL || PyUnstable_ThreadState_ResetStackProtection == NULL) {
        return "this patch release of CPython cannot be told the bounds of a greenlet's stack: use a later one";
    }
    return NULL;
#else
    return NULL;
#endif
}

#if PY_VERSION_HEX >= 0x030E0000
static void set_stack_bounds(PyThreadState *tstate, const greenrust_thread_state *saved)
{
    if (saved->stack_limit == NULL) {
        PyUnstable_ThreadState_ResetStackProtection(tstate);
    } else if (PyUnstable_ThreadState_SetStackProtection(tstate, saved->stack_limit, saved->stack_usable) < 0) {
        Py_FatalError("greenrust: CPython refuses the bounds of a greenlet's stack");
    }
}
#endif

void greenrust_thread_state_save(PyThreadState *tstate, greenrust_thread_state *saved)
{
    saved->exc_info = tstate->exc_info;
    saved->exc_state = tstate->exc_state;
    saved->context = tstate->context;
    saved->datastack_chunk = tstate->datastack_chunk;
    saved->datastack_top = tstate->datastack_top;
    saved->datastack_limit = tstate->datastack_limit;
#if PY_VERSION_HEX < 0x030C0000
    saved->cframe = tstate->cframe;
    saved->py_depth = tstate->recursion_limit - tstate->recursion_remaining;
    saved->trash_delete_nesting = tstate->trash_delete_nesting;
#elif PY_VERSION_HEX < 0x030D0000
    saved->cframe = tstate->cframe;
    saved->py_depth = tstate->py_recursion_limit - tstate->py_recursion_remaining;
    saved->c_recursion_remaining = tstate->c_recursion_remaining;
    saved->trash_delete_nesting = tstate->trash.delete_nesting;
#else
    saved->current_frame = tstate->current_frame;
    saved->py_depth = tstate->py_recursion_limit - tstate->py_recursion_remaining;
    saved->critical_section = tstate->critical_section;
#if PY_VERSION_HEX < 0x030E0000
    saved->c_recursion_remaining = tstate->c_recursion_remaining;
    saved->delete_later = tstate->delete_later;
#else
    saved->current_executor = Py_XNewRef((PyObject *)tstate->current_executor);
#endif
#endif
}

void greenrust_thread_state_load(PyThreadState *tstate, greenrust_thread_state *saved)
{
    tstate->exc_info = saved->exc_info;
    tstate->exc_state = saved->exc_state;
    /* The reference moves. What stays behind must not look owned: it is dropped with the greenlet object. */
    tstate->context = saved->context;
    saved->context = NULL;
    tstate->context_ver++;
    tstate->datastack_chunk = saved->datastack_chunk;
    tstate->datastack_top = saved->datastack_top;
    tstate->datastack_limit = saved->datastack_limit;
#if PY_VERSION_HEX < 0x030C0000
    /* Whether the thread is traced is noted in the innermost C frame: carry it over. */
    saved->cframe->use_tracing = tstate->cframe->use_tracing;
    tstate->cframe = saved->cframe;
    tstate->recursion_remaining = tstate->recursion_limit - saved->py_depth;
    tstate->trash_delete_nesting = saved->trash_delete_nesting;
#elif PY_VERSION_HEX < 0x030D0000
    tstate->cframe = saved->cframe;
    tstate->py_recursion_remaining = tstate->py_recursion_limit - saved->py_depth;
    tstate->c_recursion_remaining = saved->c_recursion_remaining;
    tstate->trash.delete_nesting = saved->trash_delete_nesting;
#else
    tstate->current_frame = saved->current_frame;
    tstate->py_recursion_remaining = tstate->py_recursion_limit - saved->py_depth;
    tstate->critical_section = saved->critical_section;
#if PY_VERSION_HEX < 0x030E0000
    tstate->c_recursion_remaining = saved->c_recursion_remaining;
    tstate->delete_later = saved->delete_later;
#else
    set_stack_bounds(tstate, saved);
    tstate->current_executor = saved->current_executor;
    Py_XDECREF(saved->current_executor);
#endif
#endif
}

/* Gives the thread state the content of a greenlet that has run nothing yet. `saved` holds its context already.
 * `area` becomes the root chunk of its data stack, which CPython never frees as it has no predecessor. Its C code may
 * use `stack_usable` bytes from the address `stack_limit` on; how deep that is by CPython's count is `c_recursion`. */
void greenrust_thread_state_begin(PyThreadState *tstate, greenrust_thread_state *saved, void *area, size_t area_size,
                                  void *stack_limit, size_t stack_usable, int c_recursion)
{
    tstate->exc_state.exc_value = NULL;
    tstate->exc_state.previous_item = NULL;
    tstate->exc_info = &tstate->exc_state;
    tstate->context = saved->context;
    saved->context = NULL;
    tstate->context_ver++;

    _PyStackChunk *chunk = (_PyStackChunk *)area;
    chunk->previous = NULL;
    chunk->size = area_size;
    chunk->top = 0;
    tstate->datastack_chunk = chunk;
    /* One slot stays free, so that no frame begins at data[0], which would mark the chunk as the one to free. */
    tstate->datastack_top = &chunk->data[1];
    tstate->datastack_limit = (PyObject **)((char *)area + area_size);
#if PY_VERSION_HEX < 0x030D0000
    memset(&saved->base_cframe, 0, sizeof saved->base_cframe);
#if PY_VERSION_HEX < 0x030C0000
    saved->base_cframe.use_tracing = tstate->cframe->use_tracing;
    tstate->recursion_remaining = tstate->recursion_limit;
    tstate->trash_delete_nesting = 0;
#else
    tstate->py_recursion_remaining = tstate->py_recursion_limit;
    tstate->c_recursion_remaining = c_recursion;
    tstate->trash.delete_nesting = 0;
#endif
    saved->base_cframe.previous = &tstate->root_cframe;
    tstate->cframe = &saved->base_cframe;
#else
#if PY_VERSION_HEX < 0x030F0000
    tstate->current_frame = NULL;
#else
    /* The thread's bottom frame ends every chain of frames: the sampling profiler looks for it. */
    tstate->current_frame = tstate->base_frame;
#endif
    tstate->py_recursion_remaining = tstate->py_recursion_limit;
    tstate->critical_section = 0;
#if PY_VERSION_HEX < 0x030E0000
    tstate->c_recursion_remaining = c_recursion;
    tstate->delete_later = NULL;
#else
    tstate->current_executor = NULL;
    saved->stack_limit = stack_limit;
    saved->stack_usable = stack_usable;
    set_stack_bounds(tstate, saved);
#endif
#endif
    (void)stack_limit;
    (void)stack_usable;
    (void)c_recursion;
}

/* Frees what a greenlet that has ended still owns of the thread state. Its context stays with it, in `saved`. */
void greenrust_thread_state_end(PyThreadState *tstate, greenrust_thread_state *saved)
{
    PyObjectArenaAllocator arena;
    PyObject_GetArenaAllocator(&arena);
    while (tstate->datastack_chunk != NULL && tstate->datastack_chunk->previous != NULL) {
        _PyStackChunk *chunk = tstate->datastack_chunk;
        tstate->datastack_chunk = chunk->previous;
        arena.free(arena.ctx, chunk, chunk->size);
    }
    tstate->exc_info = &tstate->exc_state;
    Py_CLEAR(tstate->exc_state.exc_value);
    saved->context = tstate->context;
    tstate->context = NULL;
}

/* The innermost Python frame of a suspended greenlet: a new reference, or NULL without an exception set. */
PyObject *greenrust_thread_state_frame(PyThreadState *tstate, const greenrust_thread_state *saved)
{
    /* Making the frame object may start a collection in 3.11, whose finalizers must not see a foreign frame. */
    int collecting = PyGC_Disable();
    PyObject *frame;
#if PY_VERSION_HEX < 0x030D0000
    _PyCFrame *own = tstate->cframe;
    tstate->cframe = saved->cframe;
    frame = (PyObject *)PyThreadState_GetFrame(tstate);
    tstate->cframe = own;
#else
    struct _PyInterpreterFrame *own = tstate->current_frame;
    tstate->current_frame = saved->current_frame;
    frame = (PyObject *)PyThreadState_GetFrame(tstate);
    tstate->current_frame = own;
#endif
    if (collecting) {
        PyGC_Enable();
    }
    return frame;
}

PyObject **greenrust_thread_state_context(greenrust_thread_state *saved)
{
    return &saved->context;
}

/* The running context of the thread: borrowed, may be NULL. */
PyObject **greenrust_thread_state_running_context(PyThreadState *tstate)
{
    tstate->context_ver++;
    return &tstate->context;
}

/* How deep C code may recurse on a thread's own stack, by CPython's own count; 0 where it does not count C apart. */
int greenrust_thread_state_c_recursion_limit(void)
{
#if PY_VERSION_HEX < 0x030C0000 || PY_VERSION_HEX >= 0x030E0000
    return 0;
#else
    PyThreadState *fresh = PyThreadState_New(PyInterpreterState_Get());
    if (fresh == NULL) {
        return 0;
    }
    int limit = fresh->c_recursion_remaining;
    PyThreadState_Clear(fresh);
    PyThreadState_Delete(fresh);
    return limit;
#endif
}

int greenrust_thread_count(void)
{
    int count = 0;
    for (PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get()); state != NULL;
         state = PyThreadState_Next(state)) {
        count++;
    }
    return count;
}

int greenrust_is_finalizing(void)
{
#if PY_VERSION_HEX < 0x030D0000
    return _Py_IsFinalizing();
#else
    return Py_IsFinalizing();
#endif
}

void greenrust_resurrect(PyObject *object)
{
    Py_SET_REFCNT(object, 1);
}

int greenrust_is_still_referenced(PyObject *object)
{
    Py_ssize_t references = Py_REFCNT(object) - 1;
    Py_SET_REFCNT(object, references);
    return references > 0;
}
