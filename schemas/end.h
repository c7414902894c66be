/* End of a reading of .def files: see begin.h. */
#undef ENUM
#undef VALUE
#undef END_ENUM
#undef MESSAGE
#undef FIELD
#undef FIELD_OF
#undef END_MESSAGE
#undef METHOD
#undef EVENT
#undef SERVICE_DOC
