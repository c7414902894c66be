#include "services/task/task.h"

int main(int argc, char *argv[])
{
	return service_main(argc, argv, &task_service_definition);
}
