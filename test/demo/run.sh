#!/usr/bin/env bash
# Shows the plugin at work, on a node and pods made of network namespaces.
#
# All of it happens in namespaces of its own (network, mounts, processes): the
# machine's network, /run and /var/lib are not touched, and however the demo
# ends, the kernel takes all of it away.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

child=''

# outside builds what is needed while there is a network, and starts inside.
outside() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "the demo makes network namespaces: run it as root" >&2
		exit 1
	fi
	local tool
	DEMO=$(mktemp -d)
	export DEMO
	trap '[ -z "$child" ] || { kill -KILL "$child"; wait "$child"; } 2>/dev/null || true; rm -rf "$DEMO"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	mkdir "$DEMO/bin"
	for tool in cnitool bridge host-local; do
		ln -s "$(go tool -n "$tool")" "$DEMO/bin/$tool"
	done
	ln -s "$PWD/bin/hostport" "$PWD/bin/hostportctl" "$DEMO/bin/"
	go build -o "$DEMO/bin/web" ./test/demo/web

	# In the background, so that the traps are heard; killed, it takes along
	# every process inside, and with them the namespaces.
	unshare --mount --net --pid --fork --kill-child --mount-proc "$0" inside </dev/null &
	child=$!
	local status=0
	wait "$child" || status=$?
	child=''
	exit "$status"
}

bold='' green='' red='' dim='' plain=''
if [ -t 1 ]; then
	bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi
failed=0
out=''

title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }

# show runs a command as it is printed, shows its output and keeps it in $out.
show() {
	printf '  %s$ %s%s\n' "$dim" "$1" "$plain"
	out=$(eval "$1" 2>&1) || true
	[ -z "$out" ] || sed 's/^/    /' <<<"$out"
}

# verify marks a line done or failed: TEXT COMMAND...
verify() {
	local text=$1
	shift
	if "$@"; then
		printf '  %sdone  %s %s\n' "$green" "$plain" "$text"
	else
		printf '  %sfailed%s %s\n' "$red" "$plain" "$text"
		failed=$((failed + 1))
	fi
}

says() { grep -Eq -- "$1" <<<"$out"; }
silent() { [ -z "$out" ]; }
lines() { [ "$(grep -c . <<<"$out")" -eq "$1" ]; }

# listening waits for a server: NETNS ADDRESS
listening() {
	for _ in $(seq 100); do
		ip netns exec "$1" curl -s -o /dev/null --max-time 1 "$2" && return
		sleep 0.05
	done
	echo "no server on $2 in $1" >&2
	exit 1
}

# pod makes a sandbox with a web server in it, not attached yet: NAME PORT
pod() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip netns exec "$1" web "$1" ":$2" 2>/dev/null &
	listening "$1" "127.0.0.1:$2"
}

# cni is how a runtime calls the chain, as a command to run: VERB POD
cni() {
	printf '%s' "CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=$2' " \
		"CAP_ARGS='{\"portMappings\":[{\"hostPort\":81,\"containerPort\":80,\"protocol\":\"tcp\"}]}' " \
		"cnitool $1 podnet /run/netns/$2"
}

address() { ip -n "$1" -4 -o address show dev eth0 | sed -E 's/.* inet ([0-9.]+).*/\1/'; }

# furnish makes the node (this namespace), a client outside, and a Service as
# kube-proxy programs it.
furnish() {
	mount -t tmpfs demo /run
	mount -t tmpfs demo /var/lib
	ip link set lo up
	ip netns add outside
	ip link add uplink0 type veth peer name eth0 netns outside
	ip address add 192.0.2.1/24 dev uplink0
	ip link set uplink0 up
	ip -n outside address add 192.0.2.10/24 dev eth0
	ip -n outside link set eth0 up
	ip -n outside link set lo up
	echo 1 >/proc/sys/net/ipv4/ip_forward

	mkdir "$DEMO/net.d"
	export PATH=$DEMO/bin:$PATH CNI_PATH=$DEMO/bin NETCONFPATH=$DEMO/net.d

	cp conf/10-bridge-hostport.conflist "$DEMO/net.d/"
	pod service 8080
	cnitool add podnet /run/netns/service >/dev/null
	iptables -t nat -N KUBE-SERVICES
	iptables -t nat -I PREROUTING -j KUBE-SERVICES
	iptables -t nat -I OUTPUT -j KUBE-SERVICES
	iptables -t nat -A KUBE-SERVICES -p tcp -d 192.0.2.1 --dport 30001 -j DNAT --to-destination "$(address service):8080"
}

# rules shows what is programmed for the pod at address $1.
rules() {
	if [ "$backend" = iptables ]; then
		show "iptables -t nat -L -nv | grep $1:80"
		verify "a DNAT line leads from port 81 to the pod" says "DNAT .*dpt:81 .*to:$1:80"
	else
		show "nft list table inet hostport | grep '$1 . 80'"
		verify "a map element leads from port 81 to the pod" says "tcp \. 81 .*: $1 \. 80"
	fi
	verify "and it is the only one" lines 1
}

# all_rules are every rule on the node, without what counts packets.
all_rules() {
	{
		iptables-save
		! command -v nft >/dev/null || nft list ruleset
	} 2>/dev/null | sed -E '/^#/d; s/\[[0-9:]+\]//; s/packets [0-9]+ bytes [0-9]+//'
}

pod_scene() {
	title "[$backend] A pod with hostPort 81"
	pod web 80
	show "$(cni add web) | grep address"
	local ip
	ip=$(address web)
	show "curl -sS --max-time 5 $ip:80"
	verify "the pod answers on its own port" says '^web here'
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:81'
	verify "a client outside reaches it at node:81" says '^web here'
	verify "and its address is kept" says 'you are 192\.0\.2\.10:'
	show 'curl -sS --max-time 5 192.0.2.1:81'
	verify "so does the node at its own address" says '^web here'
	show 'curl -sS --max-time 5 127.0.0.1:81'
	verify "and at 127.0.0.1" says '^web here'
	show 'ip netns exec web curl -sS --max-time 5 192.0.2.1:81'
	verify "and the pod itself" says '^web here'
	rules "$ip"
	show 'ss -ltn'
	verify "nothing listens on port 81" eval '! says ":81 "'
	show 'hostportctl list --port 81'
	verify "the owner can be asked for" says '81/tcp .*default/web'
}

host_scene() {
	title "[$backend] A pod in the node's own network, with hostPort 9697"
	web node :9697 2>/dev/null &
	local server=$!
	listening outside 192.0.2.1:9697
	local before
	before=$(all_rules)
	show "$(printf '%s' 'echo '"'"'{"cniVersion":"1.0.0","name":"podnet","type":"hostport",' \
		'"runtimeConfig":{"portMappings":[{"hostPort":9697,"containerPort":9697,"protocol":"tcp"}]},' \
		'"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.1/24"}]}}'"'"' |' \
		' CNI_COMMAND=ADD CNI_CONTAINERID=host CNI_NETNS=/proc/self/ns/net CNI_IFNAME=eth0 hostport')"
	verify "the plugin hands on the result it was given" says '^\{"cniVersion":"1\.0\.0","ips":\[\{"address":"192\.0\.2\.1/24"\}\]\}$'
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:9697'
	verify "the process itself answers at node:9697" says '^node here, you are 192\.0\.2\.10:'
	show 'ss -ltn | grep :9697'
	verify "because it listens there" says LISTEN
	show 'all_rules | grep 9697'
	verify "no rule mentions 9697" silent
	verify "and no rule has changed" [ "$before" = "$(all_rules)" ]
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:81'
	verify "the first pod is still there beside it" says '^web here'
	kill "$server"
	wait "$server" 2>/dev/null || true
}

service_scene() {
	title "[$backend] A Service beside both, and a second pod that wants port 81"
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:30001'
	verify "NodePort 30001 reaches the Service's pod" says '^service here'
	pod rival 80
	show "$(cni add rival) 2>&1 | tail -1"
	verify "port 81 has an owner, who is named" says 'host port 81/tcp is held by pod default/web'
	cnitool del podnet /run/netns/rival >/dev/null
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:81'
	verify "and who goes on to answer" says '^web here'
}

del_scene() {
	title "[$backend] The pod is deleted"
	show "$(cni del web)"
	verify "DEL says nothing" silent
	show 'all_rules | grep -E "CNI-HP|inet hostport|dpt:81"'
	verify "the table is clean" silent
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:81'
	verify "node:81 answers no more" says "Couldn't connect|Connection refused"
	show 'ip netns exec outside curl -sS --max-time 5 192.0.2.1:30001'
	verify "the Service does" says '^service here'
	ip netns delete web
	ip netns delete rival
}

inside() {
	furnish
	for backend in iptables nftables; do
		if [ "$backend" = nftables ]; then
			command -v nft >/dev/null || break
			# The same conflist, with one key more.
			sed 's/"type": "hostport",/&\n      "backend": "nftables",/' conf/10-bridge-hostport.conflist \
				>"$DEMO/net.d/10-bridge-hostport.conflist"
		fi
		pod_scene
		host_scene
		service_scene
		del_scene
	done
	echo
	if [ "$failed" -gt 0 ]; then
		printf '%s%d failed%s\n' "$red" "$failed" "$plain"
		exit 1
	fi
	printf '%sall done%s\n' "$green" "$plain"
}

case ${1-} in
inside) inside ;;
*) outside ;;
esac
