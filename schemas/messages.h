#pragma once
/*
 * First reading of the .def files: the C types. A name such as struct
 * task_start_request stands in schemas/task.def, not here. Each message has a
 * schema_<name>() table, <name>_clear() for _cleanup_(), and <name>_copy().
 */

#include "schemas/schema.h"

#define SCHEMA_C_STR	  char *
#define SCHEMA_C_STRS	  struct schema_strs
#define SCHEMA_C_BYTES	  struct schema_bytes
#define SCHEMA_C_U64	  uint64_t
#define SCHEMA_C_I64	  int64_t
#define SCHEMA_C_BOOL	  bool
#define SCHEMA_C_MAP	  struct schema_map
#define SCHEMA_C_RAW	  struct schema_bytes
#define SCHEMA_C_ENUM(of) enum of
#define SCHEMA_C_ITEM(of) struct of *
#define SCHEMA_C_LIST(of)                                                                          \
	struct {                                                                                   \
		struct of *items;                                                                  \
		size_t count;                                                                      \
	}

/* clang-format off */
#define ENUM(name, doc)					enum name {
#define VALUE(symbol, text, doc)				symbol,
#define END_ENUM(name)					}; extern const struct schema_enum schema_enum_##name;
#define MESSAGE(name, doc)				struct name {
#define FIELD(kind, member, need, max, doc)			SCHEMA_C_##kind member;
#define FIELD_OF(kind, of, member, need, max, doc)		SCHEMA_C_##kind(of) member;
#define END_MESSAGE(name)				};							\
	const struct schema_message *schema_##name(void);							\
	static inline __attribute__((unused)) void name##_clear(struct name *message)				\
	{													\
		schema_clear(schema_##name(), message);								\
	}													\
	static inline __attribute__((unused)) int name##_copy(const struct name *message, struct name *ret)	\
	{													\
		return schema_copy(schema_##name(), message, ret);						\
	}
/* clang-format on */
#include "schemas/all.def"
#include "schemas/end.h"
