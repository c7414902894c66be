"""What keeps an archive, a layer, an image's files or a registry from doing harm, check by check: each with the attack that it
stops, and the test that fails without it. See README.md.

Check(name, attack, file, old, new, test): in @file, @old (which stands there once, or @count times) becomes @new.
@test is "<program or file below tests/> <test>". Where a second check stands behind the first, both are taken out: @more
holds (file, old, new) of those."""

import collections

Check = collections.namedtuple("Check", "name attack file old new test count more", defaults=(1, ()))

APPLY = "unit/services/image/work/test_apply test_no_entry_leads_out_of_the_root"
BELOW = "unit/services/image/work/test_apply test_no_entry_leads_out_over_layers_below"
NATIVE = "unit/services/image/work/test_apply test_no_entry_leads_out_natively"
LIMITS = "unit/services/image/work/test_apply test_limits_name_themselves_and_the_entry"
LARGE = "unit/services/image/work/test_apply test_a_layer_that_becomes_too_large_is_refused_by_the_limit_that_is_named"
ONLY_TAR = "unit/services/image/work/test_apply test_only_tar_is_understood"
IMPORT = "unit/services/image/work/test_import "
DOCUMENT = "unit/services/image/test_document "
SANDBOX = "unit/services/image/work/test_sandbox "
REMOTE = "unit/services/image/work/test_remote "
REGISTRY = "integration/test_registry.py "

WORK = "services/image/work/"

CHECKS = [
    # ---- names in a layer ----
    Check("..", "CVE-2018-15664 class: names that lead upwards", WORK + "entry.c",
          "if (size == 2 && at[0] == '.' && at[1] == '.')", "if (0)", APPLY),
    Check("name of 256 bytes", "STORE-002: names without bound", WORK + "entry.c",
          "if (size > NAME_MAX)", "if (0)", LIMITS),
    Check("depth of a name", "STORE-002: depth without bound", WORK + "entry.c",
          "if (++depth > limits->path_depth)", "if (++depth > limits->path_depth && 0)", LIMITS),
    Check("length of a name", "STORE-002: names without bound", WORK + "entry.c",
          "if (strlen(path) > limits->path_size)", "if (0)", LIMITS),
    Check("whiteout as a directory", "containerd TestBreakouts: WhiteoutDirectoryName", WORK + "entry.c",
          "if (has_whiteout(entry->parent))", "if (0 && has_whiteout(entry->parent))", APPLY),
    Check("whiteout of nothing", "containerd TestBreakouts: Whiteout", WORK + "entry.c",
          "if (!*hidden || ", "if (", APPLY),
    Check("whiteout of .", "containerd TestBreakouts: WhiteoutCurrentDirectory", WORK + "entry.c",
          '!strcmp(hidden, ".") || ', "", APPLY),
    Check("whiteout of ..", "containerd TestBreakouts: WhiteoutParent", WORK + "entry.c",
          ' || !strcmp(hidden, "..")', "", APPLY),

    # ---- the way to a name ----
    Check("kernel's own root", "CVE-2020-10696, CVE-2018-15664: links out of the root", WORK + "tree.c",
          ".resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};", ".resolve = 0};", APPLY),
    Check("no link is opened", "containerd TestBreakouts: SymlinkUpAndOut, over layers below", WORK + "tree_private.h",
          "(O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)", "(O_RDONLY | O_DIRECTORY | O_CLOEXEC)", BELOW),
    Check("no link is opened, natively", "containerd TestBreakouts: SymlinkUpAndOut, in a copy", WORK + "tree_private.h",
          "(O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)", "(O_RDONLY | O_DIRECTORY | O_CLOEXEC)", NATIVE),
    Check(".. ends at the root", "containerd TestBreakouts: SymlinkUpAndOut", WORK + "tree.c",
          "tree->is_plain = false;\n\t\tif (tree->depth)\n\t\t\tleave(tree);",
          "tree->is_plain = false;\n\t\tleave(tree);", BELOW),
    Check("links in a ring", "CVE-2025-47290 class: endless resolution", WORK + "tree.c",
          "if (++links > TREE_LINKS_MAX)", "if (0 && ++links > TREE_LINKS_MAX)", BELOW),
    Check("depth of the way", "a deep way by links: writes behind the end of a table", WORK + "tree.c",
          "if (tree->depth + 1 == TREE_DEPTH_MAX) {", "if (tree->depth + 1 == 10 * TREE_DEPTH_MAX) {",
          "unit/services/image/work/test_apply test_ways_that_links_make_too_deep_are_refused"),
    Check("times through a link", "CVE-2021-31566, CVE-2021-23177: fix-ups that follow links", WORK + "tree.c",
          "tree->is_bare ? RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS\n\t\t\t\t\t : RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS",
          "0", APPLY),
    Check("times through a link, with layers below", "CVE-2021-31566, CVE-2021-23177", WORK + "tree.c",
          "RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;", "0;", BELOW),

    # ---- what is made there ----
    Check("files are new", "containerd TestBreakouts: SymlinkOverride; CVE-2020-10696", WORK + "apply.c",
          "O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC", "O_WRONLY | O_CREAT | O_CLOEXEC", APPLY),
    Check("a link is linked to", "CVE-2021-32760: chmod through a hard link to a link", WORK + "apply.c",
          "linkat(dir, target->name, place.upper, new->name, 0)",
          "linkat(dir, target->name, place.upper, new->name, AT_SYMLINK_FOLLOW)", APPLY, 2),
    Check("owner of a link", "CVE-2021-32760, CVE-2021-31566: owner through a link", WORK + "apply.c",
          "fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW)", "fchownat(dir, name, uid, gid, 0)", APPLY),
    Check("times of a link", "CVE-2021-31566: times through a link", WORK + "apply.c",
          "utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW)", "utimensat(dir, name, times, 0)", APPLY),
    Check("attributes of a link", "CVE-2021-23177: attributes through a link", WORK + "apply.c",
          "r = lsetxattr(", "r = setxattr(", APPLY),
    Check("hard link to a directory", "containerd TestBreakouts: HardlinkDirect", WORK + "tree_change.c",
          "if (S_ISDIR(status.st_mode))\n\t\treturn -EISDIR;", "", APPLY),
    Check("hard link to itself", "containerd TestBreakouts: HardlinkDirect", WORK + "apply.c",
          "if (is_same_entry(&target, new))", "if (0 && is_same_entry(&target, new))", APPLY,
          more=((WORK + "apply.c", 'return refuse(apply, "is a hard link to what it replaces");', "return 0;"),)),
    Check("root's type", "CVE-2021-29136: an entry that replaces the root", WORK + "apply.c",
          "if (archive_entry_filetype(entry) != AE_IFDIR || archive_entry_hardlink(entry))", "if (0)", APPLY),
    Check("whiteout in disguise", "device 0:0 of a layer hides what lies below", WORK + "apply.c",
          "if (archive_entry_rdev(entry) == makedev(0, 0))", "if (0)", APPLY),
    Check("trusted.overlay.*", "attributes of overlayfs from a layer", WORK + "apply.c",
          '!strncmp(name, "trusted.overlay.", 16) || ', "", APPLY),
    Check("user.overlay.*", "attributes of overlayfs from a layer", WORK + "apply.c",
          ' || !strncmp(name, "user.overlay.", 13)', "", APPLY),
    Check("owners", "CVE-2024-40635 class: an owner that wraps round", WORK + "apply.c",
          "if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)", "if (0)", APPLY),
    Check("link to nothing", "a link without a target", WORK + "apply.c",
          "if (!target || !*target || strlen(target) >= PATH_MAX)",
          "if (0 && (!target || !*target || strlen(target) >= PATH_MAX))", APPLY),
    Check("removal follows no link", "CVE-2018-15664 class: a directory with a link in it is replaced",
          "broker/lib/file_tree.c",
          "if (type == DT_DIR)\n\t\treturn remove_dir(removal, dirfd, name);",
          "if (type == DT_DIR || type == DT_LNK)\n\t\treturn remove_dir(removal, dirfd, name);", APPLY),

    # ---- sizes ----
    Check("more content than said", "containerd ec181a433; a hole map behind the end", WORK + "apply.c",
          "if (offset < end || (uint64_t)offset + n > (uint64_t)size)", "if (0)", APPLY),
    Check("less content than said", "containerd ec181a433", WORK + "apply.c",
          "if (end < size && !archive_entry_sparse_count(entry))", "if (0)", APPLY),
    Check("bytes of a file", "STORE-003: bombs", WORK + "apply.c",
          "if ((uint64_t)size > apply->limits.bytes)", "if (0)", LIMITS),
    Check("bytes of a layer", "STORE-003: bombs", WORK + "stream.c",
          "if (stream->n_out > stream->limits.bytes)", "if (0)", LARGE),
    Check("compression ratio", "STORE-003: bombs", WORK + "stream.c",
          "else if (stream->n_out > RATIO_FREE &&", "else if (0 && stream->n_out > RATIO_FREE &&", LARGE),
    Check("entries of a layer", "STORE-003: bombs of inodes", WORK + "stream.c",
          "if (++stream->n_entries > stream->limits.entries)", "if (0)",
          "unit/services/image/work/test_apply test_too_many_entries_are_refused"),
    Check("bytes of attributes", "STORE-002", WORK + "apply.c",
          "if (*total > apply->limits.xattr_bytes)", "if (0)", LIMITS),

    # ---- formats ----
    Check("tar alone", "CVE-2024-20696 … CVE-2026-4111: libarchive's other readers", WORK + "stream.c",
          "archive_read_support_format_tar(stream->tar);", "archive_read_support_format_all(stream->tar);", ONLY_TAR),
    Check("gzip and zstd alone", "CVE-2026-41567, CVE-2014-9357: other decompressors", WORK + "stream.c",
          "archive_read_support_format_raw(stream->raw);",
          "archive_read_support_filter_all(stream->raw);\n\tarchive_read_support_format_raw(stream->raw);", ONLY_TAR),
    Check("end of the stream", "CVE-2021-20291: cut or longer compressed layers", WORK + "stream.c",
          "if (r == ARCHIVE_OK && !is_over_limit(stream))\n\t\treturn (la_ssize_t)size;",
          "if (r == ARCHIVE_OK && !is_over_limit(stream))\n\t\treturn (la_ssize_t)size;\n\tif (r != ARCHIVE_OK)\n\t\treturn 0;",
          "unit/services/image/work/test_apply test_a_cut_or_longer_compressed_layer_ends_and_is_refused"),
    Check("diffID", "CVE-2024-24557, digest confusion: content that is not the config's", WORK + "apply.c",
          "if (wanted && *wanted && strcmp(wanted, digest))", "if (0)",
          "unit/services/image/work/test_apply test_a_wrong_diff_id_is_data_loss"),

    # ---- archives and documents ----
    Check("digest grammar", "CVE-2024-3727: digests that are paths", "schemas/check.c",
          """strnlen(text, 72) == 71 &&
	       strspn(text + 7, "0123456789abcdef") == 64""", "1",
          IMPORT + "test_digests_that_are_paths_are_refused"),
    Check("blob's digest", "a blob that is not its name", WORK + "import.c",
          "if (strcmp(file->digest, descriptor->digest))", "if (0)",
          IMPORT + "test_a_blob_that_is_not_its_name_is_refused"),
    Check("blob's size", "digest confusion: a blob of another size", WORK + "import.c",
          "if (file->size != descriptor->size)", "if (0)", IMPORT + "test_a_blob_of_another_size_is_refused"),
    Check("document's size", "CVE-2023-25153: documents without bound", WORK + "import_files.c",
          "if (file->size > DOCUMENT_SIZE_MAX)", "if (0)", IMPORT + "test_a_document_that_is_too_large_is_not_read",
          more=((WORK + "import_files.c", "file->stored, DOCUMENT_SIZE_MAX, ret_text", "file->stored, SIZE_MAX, ret_text"),)),
    Check("index in index", "indexes that name each other", WORK + "import.c",
          "if (depth > NESTING_MAX)", "if (0)", IMPORT + "test_indexes_in_indexes_end"),
    Check("as many layers as diffIDs", "CVE-2024-24557", WORK + "import.c",
          "if (config.diff_ids.count != n_layers)", "if (0)", IMPORT + "test_as_many_layers_as_diff_ids"),
    Check("saved config", "a docker archive's config that is not its name", WORK + "import.c",
          "strncmp(hex, file->digest + 7, 64))", "0)", IMPORT + "test_a_saved_config_that_is_not_its_name_is_refused"),
    Check("index or manifest", "CVE-2021-41190: a document that is both", "services/image/document.c",
          """if (json_object_get(json, "manifests") &&""", """if (0 && json_object_get(json, "manifests") &&""",
          DOCUMENT + "test_hostile_manifests_are_refused",
          more=(("services/image/document.c", 'if (json_object_get(json, "manifests") || !json_object_get(json, "config"))',
                 'if (!json_object_get(json, "config"))'),)),
    Check("document's type", "CVE-2021-41190: read as another type", "services/image/document.c",
          "if (own && media_type && strcmp(own, media_type))", "if (0)",
          DOCUMENT + "test_a_document_must_be_what_its_descriptor_says"),

    Check("damage that a collection meets", "what a damaged record kept is removed in the step that finds the damage",
          "services/image/collect_run.c", "if (!r && is_last) {\n\t\tlook_for_damage(run);", "if (!r && is_last) {",
          "unit/services/image/test_collect "
          "test_a_damaged_record_that_is_met_in_a_runs_only_step_lets_nothing_be_removed"),

    # ---- what an image's files are read for ----
    Check("passwd within the root", "CVE-2024-9676, CVE-2026-47262: etc/passwd is a link", "services/runtime/user_files.c",
          "open_beneath(root, path, RESOLVE_IN_ROOT)", "open_beneath(root, path, 0)",
          "unit/services/runtime/test_user_files test_links_stay_inside_the_root"),
    Check("passwd is a file", "CVE-2024-9676: etc/passwd is a FIFO or a device", "services/runtime/user_files.c",
          "if (!S_ISREG(status.st_mode))\n\t\treturn why_set(", "if (0)\n\t\treturn why_set(",
          "unit/services/runtime/test_user_files test_what_is_not_a_small_regular_file_is_refused_without_waiting"),
    Check("passwd is small", "CVE-2026-47262: etc/passwd of many bytes", "services/runtime/user_files.c",
          "if (status.st_size > USER_FILE_MAX)", "if (0)",
          "unit/services/runtime/test_user_files test_what_is_not_a_small_regular_file_is_refused_without_waiting"),
    Check("a layer is made without following", "CVE-2023-0778: a file that becomes a link", WORK + "diff.c",
          "fstatat(place->right, name, &right, AT_SYMLINK_NOFOLLOW) < 0 ||", "fstatat(place->right, name, &right, 0) < 0 ||",
          "unit/services/image/work/test_diff test_links_are_never_followed"),

    # ---- the child ----
    Check("root directory", "CVE-2019-14271: the child sees the host's files", WORK + "sandbox.c",
          'if (fchdir(fd) < 0 || chroot(".") < 0)', "if (fchdir(fd) < 0)",
          SANDBOX + "test_no_path_leads_out_of_the_layer"),
    Check("no program", "CVE-2026-41567: a program of the image's is run", WORK + "sandbox.c",
          "static const unsigned refused_calls[] = {\n\tSYS_execve,\n", "static const unsigned refused_calls[] = {\n",
          SANDBOX + "test_no_program_is_run_and_no_socket_opened"),
    Check("no socket", "the child talks to the network", WORK + "sandbox.c",
          "{SYS_socket, SYS_socketpair,", "{SYS_socketpair,", SANDBOX + "test_no_program_is_run_and_no_socket_opened"),
    Check("network of its own", "the child talks to the network", WORK + "sandbox.c",
          "CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC", "CLONE_NEWNS | CLONE_NEWIPC",
          SANDBOX + "test_it_has_a_network_and_mounts_of_its_own"),
    Check("descriptors", "STORE-002: descriptors without bound", WORK + "sandbox.c",
          "r = lower(RLIMIT_NOFILE, DESCRIPTORS_MAX);", "r = 0;", SANDBOX + "test_descriptors_and_cores_are_limited"),
    Check("no local socket of the network's child", "CVE-2020-15257 class: abstract sockets of the host", WORK + "sandbox.c",
          "{AF_INET, AF_INET6, AF_NETLINK}", "{AF_INET, AF_UNIX, AF_NETLINK}",
          SANDBOX + "test_what_talks_to_registries_sees_no_file_system"),
    Check("no file system of the network's child", "CVE-2019-14271", WORK + "sandbox.c",
          'if (fchdir(root) < 0 || chroot(".") < 0)', "if (fchdir(root) < 0)",
          SANDBOX + "test_what_talks_to_registries_sees_no_file_system"),

    # ---- registries ----
    Check("another port is another server", "CVE-2020-15157: credentials follow a redirect", WORK + "registry.c",
          "if (is_foreign)\n\t\treturn error_trace(r);", "(void)is_foreign;",
          REGISTRY + "test_nothing_of_ours_follows_a_redirect_to_another_server"),
    Check("who is asked for credentials", "CVE-2020-15157: the server behind a redirect names a token server",
          WORK + "registry.c", "if (reply.status == 401 && !reply.is_foreign &&", "if (reply.status == 401 &&",
          REGISTRY + "test_nothing_of_ours_follows_a_redirect_to_another_server"),
]
