/*
 * Second reading of the .def files: the constant tables that schema.c walks.
 * FIELD() uses offsetof() through a local typedef `self`, so that it need not
 * name its message again.
 */

#include "schemas/messages.h"

#define SCHEMA_REQUIRED .required = true
#define SCHEMA_OPTIONAL .required = false
#define SCHEMA_SECRET   .required = false, .is_secret = true

/* clang-format off */
#define ENUM(name_, doc_)								\
	static const char enum_doc_##name_[] = doc_;					\
	static const struct schema_enum_value enum_values_##name_[] = {
#define VALUE(symbol_, text_, doc_)	[symbol_] = { .text = text_, .doc = doc_ },
#define END_ENUM(name_)			};						\
	const struct schema_enum schema_enum_##name_ = {				\
		.name = #name_, .doc = enum_doc_##name_, .values = enum_values_##name_,	\
		.n_values = sizeof(enum_values_##name_) / sizeof(enum_values_##name_[0]) };
#include "schemas/all.def"
#include "schemas/end.h"

#define FIELD_TABLE_ENUM(of_)	.values = &schema_enum_##of_
#define FIELD_TABLE_ITEM(of_)	.of = schema_##of_
#define FIELD_TABLE_LIST(of_)	.of = schema_##of_

#define MESSAGE(name_, doc_)								\
	const struct schema_message *schema_##name_(void)				\
	{										\
		typedef struct name_ self;						\
		static const char doc[] = doc_;						\
		static const struct schema_field fields[] = {
#define FIELD(kind_, member_, need_, max_, doc_)					\
			{ .name = #member_, .kind = SCHEMA_##kind_,			\
			  SCHEMA_##need_, .max = (max_),			\
			  .offset = offsetof(self, member_), .doc = doc_ },
#define FIELD_OF(kind_, of_, member_, need_, max_, doc_)				\
			{ .name = #member_, .kind = SCHEMA_##kind_,			\
			  SCHEMA_##need_, .max = (max_),			\
			  .offset = offsetof(self, member_), .doc = doc_,		\
			  FIELD_TABLE_##kind_(of_) },
#define END_MESSAGE(name_)								\
			{} };								\
		_Static_assert(sizeof(fields) / sizeof(fields[0]) <= 65, "64 fields at most"); \
		static const struct schema_message message = {				\
			.name = #name_, .doc = doc, .fields = fields,			\
			.n_fields = sizeof(fields) / sizeof(fields[0]) - 1,		\
			.size = sizeof(self) };						\
		return &message;							\
	}
#include "schemas/all.def"
#include "schemas/end.h"

#define SCHEMA_MUTATES	true
#define SCHEMA_READS	false
const struct schema_method schema_methods[] = {
#define METHOD(service_, name_, request_, reply_, effect_, doc_)			\
	{ .service = #service_, .name = #name_, .request = schema_##request_,		\
	  .reply = schema_##reply_, .mutates = SCHEMA_##effect_, .doc = doc_ },
#include "schemas/all.def"
#include "schemas/end.h"
};
const size_t schema_n_methods = sizeof(schema_methods) / sizeof(schema_methods[0]);

const struct schema_event schema_events[] = {
#define EVENT(service_, name_, topic_, message_, doc_)					\
	{ .service = #service_, .name = #name_, .topic = topic_,			\
	  .message = schema_##message_, .doc = doc_ },
#include "schemas/all.def"
#include "schemas/end.h"
};
const size_t schema_n_events = sizeof(schema_events) / sizeof(schema_events[0]);
