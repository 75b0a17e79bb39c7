/* The same as socket_calls.py, which says what each function guarantees.
 *
 * The interpreter's lock is held in calls that do not wait, and given away only while nothing is ready. Whatever was
 * sent is never told to be an error: a call that was interrupted is as one that found nothing.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_BYTES (32 * 1024)
#define EVENTS_MAX 42

/* What is received passes here, so that no room for 32 KiB is made for each small message. Guarded by the lock. */
static char room[RECEIVE_BYTES];

static int nothing_now(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static int count_is(const char *name, Py_ssize_t given, Py_ssize_t wanted) {
  if (given == wanted) return 1;
  PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, %zd were given", name, wanted, given);
  return 0;
}

static PyObject *receive(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given) {
  if (!count_is("receive", given, 1)) return NULL;
  const long fd = PyLong_AsLong(arguments[0]);
  if (fd == -1 && PyErr_Occurred()) return NULL;
  ssize_t count;
  do { /* what has come is told of once (EPOLLET) */
    count = recv((int)fd, room, sizeof room, MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count >= 0) return PyBytes_FromStringAndSize(room, count);
  if (nothing_now()) Py_RETURN_NONE;
  return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *transmit(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given) {
  const char *data;
  if (!count_is("transmit", given, 2)) return NULL;
  const long fd = PyLong_AsLong(arguments[0]);
  if (fd == -1 && PyErr_Occurred()) return NULL;
  if (PyBytes_CheckExact(arguments[1])) {
    data = PyBytes_AS_STRING(arguments[1]);
  } else if (PyByteArray_CheckExact(arguments[1])) {
    data = PyByteArray_AS_STRING(arguments[1]);
  } else {
    return PyErr_Format(PyExc_TypeError, "transmit() sends bytes or a bytearray");
  }
  const ssize_t count = send((int)fd, data, Py_SIZE(arguments[1]), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (count >= 0) return PyLong_FromSsize_t(count);
  if (nothing_now()) return PyLong_FromLong(0);
  return PyErr_SetFromErrno(PyExc_OSError);
}

/* Of `looks_at`, bound to the descriptor of an epoll: asking the object for it each time is a call of its method. */
static PyObject *look(PyObject *epoll_fd, PyObject *asked) {
  struct epoll_event ready[EVENTS_MAX];
  int count;
  const int fd = (int)PyLong_AsLong(epoll_fd);
  const int forever = PyObject_IsTrue(asked);
  if (forever < 0) return NULL;
  if (forever) {
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(fd, ready, EVENTS_MAX, -1);
    Py_END_ALLOW_THREADS
  } else {
    count = epoll_wait(fd, ready, EVENTS_MAX, 0);
  }
  if (count < 0) {
    if (errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError);
    if (PyErr_CheckSignals() < 0) return NULL;
    count = 0;
  }
  /* A tuple: short ones are used again, each list asks the allocator for its room. */
  PyObject *told = PyTuple_New(2 * count);
  for (int index = 0; told != NULL && index < count; index++) {
    PyObject *one = PyLong_FromLong(ready[index].data.fd), *events = PyLong_FromLong((long)ready[index].events);
    if (one == NULL || events == NULL) {
      Py_XDECREF(one);
      Py_XDECREF(events);
      Py_CLEAR(told);
    } else {
      PyTuple_SET_ITEM(told, 2 * index, one);
      PyTuple_SET_ITEM(told, 2 * index + 1, events);
    }
  }
  return told;
}

union address {
  struct sockaddr any;
  struct sockaddr_in four;
  struct sockaddr_in6 six;
};

/* In words. Most clients come from where the one before has come from, whose text is kept: guarded by the lock. */
static PyObject *text_of(const union address *peer) {
  static PyObject *kept = NULL;
  static in_addr_t kept_of;
  char text[INET6_ADDRSTRLEN] = "";
  if (peer->any.sa_family == AF_INET6) {
    inet_ntop(AF_INET6, &peer->six.sin6_addr, text, sizeof text);
  } else if (peer->any.sa_family == AF_INET) {
    const in_addr_t four = peer->four.sin_addr.s_addr;
    if (kept == NULL || four != kept_of) {
      inet_ntop(AF_INET, &peer->four.sin_addr, text, sizeof text);
      Py_XSETREF(kept, PyUnicode_FromString(text));
      kept_of = four;
    }
    Py_XINCREF(kept);
    return kept;
  }
  return PyUnicode_FromString(text);
}

/* Of `takes_from`, bound to the descriptor of a listening socket. */
static PyObject *take(PyObject *listening_fd, PyObject *Py_UNUSED(nothing)) {
  union address peer;
  socklen_t size = sizeof peer;
  const int fd = accept4((int)PyLong_AsLong(listening_fd), &peer.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (nothing_now() || errno == ECONNABORTED) Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
  }
  PyObject *taken = Py_BuildValue("iN", fd, text_of(&peer));
  if (taken == NULL) close(fd);
  return taken;
}

static PyMethodDef look_definition = {"look", look, METH_O, NULL}, take_definition = {"take", take, METH_NOARGS, NULL};

/* A function bound to the descriptor of an object. */
static PyObject *bound(PyMethodDef *definition, PyObject *object) {
  const int fd = PyObject_AsFileDescriptor(object);
  if (fd < 0) return NULL;
  PyObject *number = PyLong_FromLong(fd);
  if (number == NULL) return NULL;
  PyObject *made = PyCFunction_New(definition, number);
  Py_DECREF(number);
  return made;
}

static PyObject *looks_at(PyObject *Py_UNUSED(module), PyObject *epoll) { return bound(&look_definition, epoll); }

static PyObject *takes_from(PyObject *Py_UNUSED(module), PyObject *listening) {
  return bound(&take_definition, listening);
}

static PyMethodDef functions[] = {
    {"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, NULL},
    {"transmit", (PyCFunction)(void (*)(void))transmit, METH_FASTCALL, NULL},
    {"looks_at", looks_at, METH_O, NULL},
    {"takes_from", takes_from, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "socket_calls", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_socket_calls(void) {
  PyObject *module = PyModule_Create(&definition);
  if (module == NULL) return NULL;
  if (PyModule_AddIntMacro(module, RECEIVE_BYTES) < 0 || PyModule_AddIntMacro(module, EVENTS_MAX) < 0)
    Py_CLEAR(module);
  return module;
}
