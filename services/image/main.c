/* davit-image: content, images and snapshots. */

#include "services/image/image.h"

int main(int argc, char *argv[])
{
	return service_main(argc, argv, &image_definition);
}
