/* Index, manifest, config and docker-save's list: the first byte picks which of them the rest is. */

#include "services/image/document.h"
#include "schemas/check.h"
#include "tests/fuzz/fuzz.h"

static void try_index(const char *text, size_t size)
{
	struct document_index index = {};

	if (document_parse_index(text, size, NULL, &index, NULL))
		return;
	for (size_t i = 0; i < index.count; i++)
		FUZZ_ASSERT(check_digest(index.items[i].descriptor.digest));
	document_index_clear(&index);
}

static void try_manifest(const char *text, size_t size)
{
	struct document_manifest manifest = {};

	if (document_parse_manifest(text, size, NULL, &manifest, NULL))
		return;
	FUZZ_ASSERT(check_digest(manifest.config.digest));
	FUZZ_ASSERT(manifest.layers.count <= DOCUMENT_LAYERS_MAX);
	for (size_t i = 0; i < manifest.layers.count; i++)
		FUZZ_ASSERT(check_digest(manifest.layers.items[i].digest));
	document_manifest_clear(&manifest);
}

static void try_config(const char *text, size_t size)
{
	struct document_config config = {};

	if (document_parse_config(text, size, &config, NULL))
		return;
	for (size_t i = 0; i < config.diff_ids.count; i++)
		FUZZ_ASSERT(check_digest(config.diff_ids.items[i]));
	document_config_clear(&config);
}

static void try_saved(const char *text, size_t size)
{
	struct document_saved_list list = {};

	if (document_parse_saved(text, size, &list, NULL))
		return;
	for (size_t i = 0; i < list.count; i++)
		FUZZ_ASSERT(list.items[i].config);
	document_saved_list_clear(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const tries[])(const char *, size_t) = {try_index, try_manifest, try_config,
							      try_saved};
	char *text;

	if (!size)
		return 0;
	text = fuzz_text(data + 1, size - 1);
	tries[data[0] % 4](text, size - 1);
	free(text);
	return 0;
}
