// The least a program can do: what a start costs beyond it is ours.
int main(void) { return 0; }
