/*
 * Start of every .def file: an interface list that the preprocessor reads. Who
 * includes a .def defines the macros that it wants; the others are empty here.
 * end.h takes all of them away again. No include guard, on purpose.
 */
#ifndef ENUM
#define ENUM(name, doc)
#endif
#ifndef VALUE
#define VALUE(symbol, text, doc)
#endif
#ifndef END_ENUM
#define END_ENUM(name)
#endif
#ifndef MESSAGE
#define MESSAGE(name, doc)
#endif
#ifndef FIELD
#define FIELD(kind, name, need, max, doc)
#endif
#ifndef FIELD_OF
#define FIELD_OF(kind, of, name, need, max, doc)
#endif
#ifndef END_MESSAGE
#define END_MESSAGE(name)
#endif
#ifndef METHOD
#define METHOD(service, name, request, reply, effect, doc)
#endif
#ifndef EVENT
#define EVENT(service, name, topic, message, doc)
#endif
#ifndef SERVICE_DOC
#define SERVICE_DOC(service, doc)
#endif
