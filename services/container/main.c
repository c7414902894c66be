/* davit-container: the container service. */

#include "services/container/service.h"

int main(int argc, char *argv[])
{
	return service_main(argc, argv, &container_definition);
}
