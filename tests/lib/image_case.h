#pragma once
/*
 * An image service in a scratch directory, whose turns are made by hand. Included by
 * one .c file of a test program.
 */

#include "services/image/image.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

static struct service_case test;

static inline struct image_service *service(void)
{
	return test.service->object;
}

static inline int image_case_setup(void **state)
{
	(void)state;
	service_case_init(&test, &image_definition);
	return 0;
}

/* It begins nothing by itself: no collection, no child that removes. */
static inline int image_case_setup_idle(void **state)
{
	image_case_setup(state);
	service()->is_ready = false;
	return 0;
}

static inline int image_case_teardown(void **state)
{
	(void)state;
	return service_case_deinit(&test);
}
