# Made by `make docs` from the tables of the command line.
# shellcheck shell=bash
_davit_step() {
	case "$path $1" in
	'davit run') words=" --rm --null-io --log-uri --fifo-dir --detach --interactive --detach-keys --log --no-log --log-max-size --log-max-files --log-mode --cni --checkpoint --snapshotter --snapshotter-label --config --dump-config --cwd --env --env-file --user --label --annotation --mount --net-host --privileged --privileged-without-host-devices --read-only --runtime --runc-binary --runc-root --runtime-config-path --tty --with-ns --pid-file --allow-new-privs --memory-limit --cpu-shares --cpu-quota --cpu-period --cpuset-cpus --cpuset-mems --pids-limit --blkio-weight --blkio-weight-device --blkio-read-bps --blkio-write-bps --blkio-read-iops --blkio-write-iops --cpus --device --cap-add --cap-drop --seccomp --seccomp-profile --apparmor-profile --apparmor-default-profile --rdt-class --gpus --uidmap --gidmap --remap-labels --hostname --rlimit-nofile --rootfs --rootfs-propagation --no-pivot --cgroup --systemd-cgroup --platform --help"; path='davit run' ;;
	'davit start') words=" --null-io --log-uri --fifo-dir --detach --interactive --detach-keys --log --no-log --log-max-size --log-max-files --log-mode --pid-file --help"; path='davit start' ;;
	'davit stop') words=" --timeout --signal --help"; path='davit stop' ;;
	'davit restart') words=" --timeout --signal --help"; path='davit restart' ;;
	'davit exec') words=" --cwd --tty --exec-id --user --env --pid-file --null-io --log-uri --fifo-dir --detach --interactive --detach-keys --log --no-log --log-max-size --log-max-files --log-mode --help"; path='davit exec' ;;
	'davit attach') words=" --exec-id --no-stdin --detach-keys --fifo-dir --help"; path='davit attach' ;;
	'davit logs') words=" --follow --since --until --tail --timestamps --exec-id --help"; path='davit logs' ;;
	'davit ps') words=" --quiet --format --all --all-namespaces --help"; path='davit ps' ;;
	'davit top') words=" --quiet --format --help"; path='davit top' ;;
	'davit stats') words=" --no-stream --all-namespaces --quiet --format --help"; path='davit stats' ;;
	'davit inspect') words=" --help"; path='davit inspect' ;;
	'davit wait') words=" --help"; path='davit wait' ;;
	'davit kill') words=" --signal --exec-id --all --help"; path='davit kill' ;;
	'davit pause') words=" --help"; path='davit pause' ;;
	'davit resume' | 'davit unpause') words=" --help"; path='davit resume' ;;
	'davit update') words=" --memory-limit --cpus --cpu-quota --cpu-period --cpu-shares --cpuset-cpus --cpuset-mems --pids-limit --help"; path='davit update' ;;
	'davit cp') words=" --follow-link --archive --help"; path='davit cp' ;;
	'davit rm') words=" --keep-snapshot --force --help"; path='davit rm' ;;
	'davit containers' | 'davit c' | 'davit container') words=" create list info delete label checkpoint restore --help"; path='davit containers' ;;
	'davit containers create') words=" --snapshotter --snapshotter-label --config --dump-config --cwd --env --env-file --user --label --annotation --mount --net-host --privileged --privileged-without-host-devices --read-only --runtime --runc-binary --runc-root --runtime-config-path --tty --with-ns --pid-file --allow-new-privs --memory-limit --cpu-shares --cpu-quota --cpu-period --cpuset-cpus --cpuset-mems --pids-limit --blkio-weight --blkio-weight-device --blkio-read-bps --blkio-write-bps --blkio-read-iops --blkio-write-iops --cpus --device --cap-add --cap-drop --seccomp --seccomp-profile --apparmor-profile --apparmor-default-profile --rdt-class --gpus --uidmap --gidmap --remap-labels --hostname --rlimit-nofile --rootfs --rootfs-propagation --no-pivot --cgroup --systemd-cgroup --platform --help"; path='davit containers create' ;;
	'davit containers list' | 'davit containers ls') words=" --quiet --format --help"; path='davit containers list' ;;
	'davit containers info') words=" --spec --help"; path='davit containers info' ;;
	'davit containers delete' | 'davit containers del' | 'davit containers remove' | 'davit containers rm') words=" --keep-snapshot --force --help"; path='davit containers delete' ;;
	'davit containers label') words=" --help"; path='davit containers label' ;;
	'davit containers checkpoint') words=" --rw --image --task --help"; path='davit containers checkpoint' ;;
	'davit containers restore') words=" --rw --live --help"; path='davit containers restore' ;;
	'davit tasks' | 'davit t' | 'davit task') words=" list start exec attach checkpoint kill pause resume ps metrics wait delete --help"; path='davit tasks' ;;
	'davit tasks list' | 'davit tasks ls') words=" --quiet --format --all --all-namespaces --help"; path='davit tasks list' ;;
	'davit tasks start') words=" --null-io --log-uri --fifo-dir --detach --interactive --detach-keys --log --no-log --log-max-size --log-max-files --log-mode --pid-file --help"; path='davit tasks start' ;;
	'davit tasks exec') words=" --cwd --tty --exec-id --user --env --pid-file --null-io --log-uri --fifo-dir --detach --interactive --detach-keys --log --no-log --log-max-size --log-max-files --log-mode --help"; path='davit tasks exec' ;;
	'davit tasks attach') words=" --exec-id --no-stdin --detach-keys --fifo-dir --help"; path='davit tasks attach' ;;
	'davit tasks checkpoint') words=" --exit --image-path --work-path --help"; path='davit tasks checkpoint' ;;
	'davit tasks kill') words=" --signal --exec-id --all --help"; path='davit tasks kill' ;;
	'davit tasks pause') words=" --help"; path='davit tasks pause' ;;
	'davit tasks resume' | 'davit tasks unpause') words=" --help"; path='davit tasks resume' ;;
	'davit tasks ps') words=" --quiet --format --help"; path='davit tasks ps' ;;
	'davit tasks metrics' | 'davit tasks metric') words=" --quiet --format --help"; path='davit tasks metrics' ;;
	'davit tasks wait') words=" --help"; path='davit tasks wait' ;;
	'davit tasks delete' | 'davit tasks del' | 'davit tasks remove' | 'davit tasks rm') words=" --force --exec-id --help"; path='davit tasks delete' ;;
	'davit images' | 'davit image' | 'davit i') words=" pull push import export list check inspect history usage convert mount unmount delete tag label --help"; path='davit images' ;;
	'davit images pull') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --label --platform --all-platforms --all-metadata --max-concurrent-downloads --snapshotter --no-unpack --print-chainid --help"; path='davit images pull' ;;
	'davit images push') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --manifest --manifest-type --platform --max-concurrent-uploaded-layers --allow-non-distributable-blobs --help"; path='davit images push' ;;
	'davit images import') words=" --base-name --index-name --digests --skip-digest-for-named --compress-blobs --all-platforms --platform --no-unpack --snapshotter --help"; path='davit images import' ;;
	'davit images export') words=" --skip-manifest-json --skip-non-distributable --platform --all-platforms --help"; path='davit images export' ;;
	'davit images list' | 'davit images ls') words=" --quiet --format --help"; path='davit images list' ;;
	'davit images check') words=" --quiet --format --platform --snapshotter --verify --help"; path='davit images check' ;;
	'davit images inspect') words=" --platform --snapshotter --help"; path='davit images inspect' ;;
	'davit images history') words=" --platform --snapshotter --help"; path='davit images history' ;;
	'davit images usage') words=" --platform --snapshotter --bytes --help"; path='davit images usage' ;;
	'davit images convert') words=" --uncompress --compression --oci --platform --all-platforms --help"; path='davit images convert' ;;
	'davit images mount') words=" --rw --platform --snapshotter --help"; path='davit images mount' ;;
	'davit images unmount' | 'davit images umount') words=" --rm --snapshotter --help"; path='davit images unmount' ;;
	'davit images delete' | 'davit images del' | 'davit images remove' | 'davit images rm') words=" --sync --all --help"; path='davit images delete' ;;
	'davit images tag') words=" --force --help"; path='davit images tag' ;;
	'davit images label') words=" --replace-all --help"; path='davit images label' ;;
	'davit snapshots' | 'davit snapshot') words=" commit diff info list mounts prepare delete label tree unpack repair cleanup usage view --snapshotter --help"; path='davit snapshots' ;;
	'davit snapshots commit') words=" --help"; path='davit snapshots commit' ;;
	'davit snapshots diff') words=" --media-type --ref --keep --label --help"; path='davit snapshots diff' ;;
	'davit snapshots info') words=" --help"; path='davit snapshots info' ;;
	'davit snapshots list' | 'davit snapshots ls') words=" --quiet --format --help"; path='davit snapshots list' ;;
	'davit snapshots mounts' | 'davit snapshots m' | 'davit snapshots mount') words=" --help"; path='davit snapshots mounts' ;;
	'davit snapshots prepare') words=" --target --mounts --help"; path='davit snapshots prepare' ;;
	'davit snapshots delete' | 'davit snapshots del' | 'davit snapshots remove' | 'davit snapshots rm') words=" --help"; path='davit snapshots delete' ;;
	'davit snapshots label') words=" --help"; path='davit snapshots label' ;;
	'davit snapshots tree') words=" --help"; path='davit snapshots tree' ;;
	'davit snapshots unpack') words=" --snapshotter --help"; path='davit snapshots unpack' ;;
	'davit snapshots repair') words=" --dry-run --help"; path='davit snapshots repair' ;;
	'davit snapshots cleanup') words=" --help"; path='davit snapshots cleanup' ;;
	'davit snapshots usage') words=" --bytes --help"; path='davit snapshots usage' ;;
	'davit snapshots view') words=" --target --mounts --help"; path='davit snapshots view' ;;
	'davit content') words=" active delete get ingest list label verify fetch prune edit fetch-object fetch-blob push-object --help"; path='davit content' ;;
	'davit content active') words=" --quiet --format --help"; path='davit content active' ;;
	'davit content delete' | 'davit content del' | 'davit content remove' | 'davit content rm') words=" --help"; path='davit content delete' ;;
	'davit content get') words=" --help"; path='davit content get' ;;
	'davit content ingest') words=" --expected-size --expected-digest --restart --help"; path='davit content ingest' ;;
	'davit content list' | 'davit content ls') words=" --quiet --format --help"; path='davit content list' ;;
	'davit content label') words=" --help"; path='davit content label' ;;
	'davit content verify') words=" --help"; path='davit content verify' ;;
	'davit content fetch') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --label --platform --all-platforms --all-metadata --max-concurrent-downloads --metadata-only --help"; path='davit content fetch' ;;
	'davit content prune') words=" references --help"; path='davit content prune' ;;
	'davit content prune references') words=" --async --dry --help"; path='davit content prune references' ;;
	'davit content edit') words=" --validate --editor --help"; path='davit content edit' ;;
	'davit content fetch-object') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --help"; path='davit content fetch-object' ;;
	'davit content fetch-blob') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --media-type --help"; path='davit content fetch-blob' ;;
	'davit content push-object') words=" --skip-verify --plain-http --user --refresh --hosts-dir --tlscacert --tlscert --tlskey --http-dump --http-trace --help"; path='davit content push-object' ;;
	'davit leases') words=" list create delete add drop resources --help"; path='davit leases' ;;
	'davit leases list' | 'davit leases ls') words=" --quiet --format --help"; path='davit leases list' ;;
	'davit leases create') words=" --id --expires --help"; path='davit leases create' ;;
	'davit leases delete' | 'davit leases del' | 'davit leases remove' | 'davit leases rm') words=" --sync --help"; path='davit leases delete' ;;
	'davit leases add') words=" --create --help"; path='davit leases add' ;;
	'davit leases drop') words=" --help"; path='davit leases drop' ;;
	'davit leases resources') words=" --quiet --format --help"; path='davit leases resources' ;;
	'davit prune') words=" --force --dry-run --quiet --format --help"; path='davit prune' ;;
	'davit namespaces' | 'davit namespace' | 'davit ns') words=" create list remove label --help"; path='davit namespaces' ;;
	'davit namespaces create' | 'davit namespaces c') words=" --help"; path='davit namespaces create' ;;
	'davit namespaces list' | 'davit namespaces ls') words=" --quiet --format --help"; path='davit namespaces list' ;;
	'davit namespaces remove' | 'davit namespaces rm') words=" --help"; path='davit namespaces remove' ;;
	'davit namespaces label') words=" --help"; path='davit namespaces label' ;;
	'davit events' | 'davit event') words=" --from --cursor --topic --object --no-follow --count --format --help"; path='davit events' ;;
	'davit operations') words=" --quiet --format --help"; path='davit operations' ;;
	'davit store') words=" quarantine rebuild accept --help"; path='davit store' ;;
	'davit store quarantine') words=" list drop --help"; path='davit store quarantine' ;;
	'davit store quarantine list' | 'davit store quarantine ls') words=" --quiet --format --help"; path='davit store quarantine list' ;;
	'davit store quarantine drop') words=" --table --all --help"; path='davit store quarantine drop' ;;
	'davit store rebuild') words=" --help"; path='davit store rebuild' ;;
	'davit store accept') words=" --help"; path='davit store accept' ;;
	'davit bus') words=" list describe call subscribe monitor publish stats bench --help"; path='davit bus' ;;
	'davit bus list' | 'davit bus ls') words=" --quiet --format --help"; path='davit bus list' ;;
	'davit bus describe') words=" --help"; path='davit bus describe' ;;
	'davit bus call') words=" --no-schema --help"; path='davit bus call' ;;
	'davit bus subscribe') words=" --help"; path='davit bus subscribe' ;;
	'davit bus monitor') words=" --help"; path='davit bus monitor' ;;
	'davit bus publish') words=" --object --help"; path='davit bus publish' ;;
	'davit bus stats' | 'davit bus top') words=" --help"; path='davit bus stats' ;;
	'davit bus bench') words=" --callers --requests --method --events --batch --format --help"; path='davit bus bench' ;;
	'davit up') words=" --detach --log --ready-fd --cni-conf-dir --cni-bin-dir --cni-timeout --image-limit --help"; path='davit up' ;;
	'davit down') words=" --containers --help"; path='davit down' ;;
	'davit upgrade') words=" --help"; path='davit upgrade' ;;
	'davit doctor') words=" --help"; path='davit doctor' ;;
	'davit fsck') words=" --repair --quiet --format --help"; path='davit fsck' ;;
	'davit backup') words=" --help"; path='davit backup' ;;
	'davit restore') words=" --force --help"; path='davit restore' ;;
	'davit info') words=" --quiet --format --help"; path='davit info' ;;
	'davit oci') words=" spec --help"; path='davit oci' ;;
	'davit oci spec') words=" --help"; path='davit oci spec' ;;
	'davit oci-hook') words=" --help"; path='davit oci-hook' ;;
	'davit version') words=" --help"; path='davit version' ;;
	esac
}
_davit() {
	local path=davit words i
	words=" run start stop restart exec attach logs ps top stats inspect wait kill pause resume update cp rm containers tasks images snapshots content leases prune namespaces events operations store bus up down upgrade doctor fsck backup restore info oci oci-hook version --address --namespace --root --state --timeout --debug --help --version --help"
	for ((i = 1; i < COMP_CWORD; i++)); do
		case "${COMP_WORDS[i]}" in
		--address | -a | --namespace | -n | --root | --state | --timeout) i=$((i + 1)) ;;
		-*) ;;
		*) _davit_step "${COMP_WORDS[i]}" ;;
		esac
	done
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o default -F _davit davit
